// The WORDS beats of a token, to be read in any order and any number of times.
//
// Two banks: the next token fills one while the other is read, so that WORDS cycles for each token
// are enough. `complete` says that a token can be read; `release` frees it. Latency of a read 1.
`default_nettype none

module selective_scan_token #(
    parameter int WORDS = 1,
    parameter int BITS = 8
) (
    input  wire                                          ap_clk,
    input  wire                                          ap_rst_n,

    input  wire  [BITS-1:0]                              in0_V_tdata,
    input  wire                                          in0_V_tvalid,
    output logic                                         in0_V_tready,

    output logic                                         complete,
    input  wire                                          release_token,
    input  wire  [(WORDS > 1 ? $clog2(WORDS) : 1)-1:0]   address,
    output logic [BITS-1:0]                              word
);
    localparam int ADDRESS_BITS = WORDS > 1 ? $clog2(WORDS) : 1;

    (* ram_style = "distributed" *) logic [BITS-1:0] memory[2<<ADDRESS_BITS];
    logic [ADDRESS_BITS-1:0] filled;  // words in the bank that is filled
    logic fill_bank, read_bank;
    logic [1:0] full;

    assign in0_V_tready = !full[fill_bank];
    assign complete = full[read_bank];
    wire fill = in0_V_tvalid && in0_V_tready;
    wire last = filled == ADDRESS_BITS'(WORDS - 1);

    always_ff @(posedge ap_clk) begin
        if (fill) memory[{fill_bank, filled}] <= in0_V_tdata;
        word <= memory[{read_bank, address}];
    end

    always_ff @(posedge ap_clk) begin
        if (!ap_rst_n) begin
            filled <= '0;
            fill_bank <= 1'b0;
            read_bank <= 1'b0;
            full <= '0;
        end else begin
            if (fill) filled <= last ? '0 : filled + 1'b1;
            if (fill && last) begin
                full[fill_bank] <= 1'b1;
                fill_bank <= !fill_bank;
            end
            if (release_token) begin
                full[read_bank] <= 1'b0;
                read_bank <= !read_bank;
            end
        end
    end
endmodule

`default_nettype wire
