// The columns of a map: each word with those above it, KERNEL_H in all, the uppermost lowest.
//
// A memory holds the KERNEL_H - 1 words of a place in the lines above. It is read in the cycle in
// which a word is taken and written two cycles later, a line further down; a line of fewer words
// than that is in registers. With a column comes whether it completes a window that is put out.
`default_nettype none

module window_columns #(
    parameter int BITS = 8,        // of a word: some channels of a pixel
    parameter int FOLDS = 1,       // words of a pixel
    parameter int HEIGHT = 1,
    parameter int WIDTH = 1,
    parameter int KERNEL_H = 1,
    parameter int KERNEL_W = 1,
    parameter int STRIDE_H = 1,
    parameter int STRIDE_W = 1,
    parameter string STYLE = "auto"
) (
    input  wire                        ap_clk,
    input  wire                        ap_rst_n,

    input  wire  [BITS-1:0]            in_word,
    input  wire                        in_valid,
    output logic                       in_ready,

    input  wire                        credit,
    output logic                       spend,
    output logic                       push,
    output logic                       complete,
    output logic [KERNEL_H*BITS-1:0]   column
);
    localparam int LINE = WIDTH * FOLDS;
    localparam int ABOVE = (KERNEL_H - 1) * BITS;

    wire take = in_valid && credit;
    assign in_ready = credit;
    assign spend = take;

    // where the word is
    logic last_fold, last_x, last_y, in_x, in_y;
    wire next_x = take && last_fold;
    wire next_y = take && last_fold && last_x;
    logic [$clog2(FOLDS+1)-1:0] fold;
    wrap_counter #(.COUNT(FOLDS), .BITS($bits(fold))) folds (
        .ap_clk, .ap_rst_n, .step(take), .value(fold), .last(last_fold)
    );
    window_edge #(.SIZE(WIDTH), .KERNEL(KERNEL_W), .STRIDE(STRIDE_W)) along_x (
        .ap_clk, .ap_rst_n, .step(next_x), .last(last_x), .ends(in_x)
    );
    window_edge #(.SIZE(HEIGHT), .KERNEL(KERNEL_H), .STRIDE(STRIDE_H)) along_y (
        .ap_clk, .ap_rst_n, .step(next_y), .last(last_y), .ends(in_y)
    );

    logic [1:0] valid, ends;
    logic [BITS-1:0] word, word_late;
    always_ff @(posedge ap_clk) begin
        if (!ap_rst_n) valid <= '0;
        else valid <= {valid[0], take};
        ends <= {ends[0], in_x && in_y};
        word <= in_word;
        word_late <= word;
    end
    assign push = valid[1];
    assign complete = ends[1];

    if (KERNEL_H == 1) begin : g_single
        assign column = word_late;
    end else begin : g_lines
        logic [ABOVE-1:0] above;
        assign column = {word_late, above};

        if (LINE > 2) begin : g_memory
            localparam int ADDRESS_BITS = $clog2(LINE);
            (* ram_style = STYLE *) logic [ABOVE-1:0] lines [LINE];
            logic [ABOVE-1:0] read_word;
            logic [ADDRESS_BITS-1:0] address, address_1, address_2;
            logic last_address;
            wrap_counter #(.COUNT(LINE), .BITS(ADDRESS_BITS)) places (
                .ap_clk, .ap_rst_n, .step(take), .value(address), .last(last_address)
            );
            always_ff @(posedge ap_clk) begin
                address_1 <= address;
                address_2 <= address_1;
                read_word <= lines[address];
                above <= read_word;
                if (valid[1]) lines[address_2] <= column[BITS +: ABOVE];
            end
        end else begin : g_registers
            logic [LINE-1:0][ABOVE-1:0] lines;
            logic [ABOVE-1:0] read_word;
            wire [KERNEL_H*BITS-1:0] whole = {in_word, lines[LINE-1]};
            always_ff @(posedge ap_clk) begin
                if (take) lines <= (LINE * ABOVE)'({lines, whole[BITS +: ABOVE]});
                read_word <= lines[LINE-1];
                above <= read_word;
            end
        end
    end
endmodule

`default_nettype wire
