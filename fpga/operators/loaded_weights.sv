// A memory that is written once, by the first words of a stream, and then read for ever.
//
// A word is cut into columns of LOAD_BITS bits, one beat of the stream each, the lowest first; UltraRAM
// has 72 bits a row. What comes after the last beat of its own is passed on, one cycle later, to the
// memory behind this one. The stream never waits: there is no path back through the chain, and no net
// of it is longer than from one memory to the next.
`default_nettype none

module loaded_weights #(
    parameter int    BITS         = 72,
    parameter int    DEPTH        = 2,
    parameter int    LOAD_BITS    = 72,
    parameter string STYLE        = "ultra",
    parameter int    ADDRESS_BITS = DEPTH > 1 ? $clog2(DEPTH) : 1  // follows from it
) (
    input  wire                     ap_clk,
    input  wire                     ap_rst_n,

    input  wire  [LOAD_BITS-1:0]    load_data,
    input  wire                     load_valid,
    output logic [LOAD_BITS-1:0]    pass_data,
    output logic                    pass_valid,

    output logic                    loaded,   // all words are in the memory
    input  wire  [ADDRESS_BITS-1:0] address,
    output logic [BITS-1:0]         word      // two cycles later
);
    if (BITS < 1 || DEPTH < 1 || DEPTH > 4096)
        $error("loaded_weights: BITS=%0d, DEPTH=%0d, expected 1 or more, 1 to 4096", BITS, DEPTH);

    localparam int COLUMNS = (BITS + LOAD_BITS - 1) / LOAD_BITS;

    // ---- what comes is written one cycle later
    logic whole;                  // the last beat of its own has come
    logic [COLUMNS-1:0] column;   // the next one, one-hot
    logic [COLUMNS-1:0] writes;
    logic [ADDRESS_BITS-1:0] row, written_row;
    wire take = load_valid && !whole;
    wire last_column = column[COLUMNS-1];
    always_ff @(posedge ap_clk) begin
        pass_data <= load_data;
        written_row <= row;
        if (!ap_rst_n) begin
            pass_valid <= 1'b0;
            writes <= '0;
            whole <= 1'b0;
            loaded <= 1'b0;
            row <= '0;
            column <= COLUMNS'(1);
        end else begin
            pass_valid <= load_valid && whole;
            writes <= take ? column : '0;
            loaded <= whole;
            if (take) begin
                column <= COLUMNS'({column, last_column});
                if (last_column) begin
                    row <= row + 1'b1;
                    whole <= row == ADDRESS_BITS'(DEPTH - 1);
                end
            end
        end
    end

    // ---- the memory
    for (genvar c = 0; c < COLUMNS; c++) begin : gen_column
        localparam int FROM = c * LOAD_BITS;
        localparam int OWN = FROM + LOAD_BITS <= BITS ? LOAD_BITS : BITS - FROM;
        (* ram_style = STYLE *) logic [OWN-1:0] memory[DEPTH];
        logic [OWN-1:0] early, late;
        always_ff @(posedge ap_clk) begin
            if (writes[c]) memory[written_row] <= pass_data[OWN-1:0];
            early <= memory[address];
            late <= early;
        end
        assign word[FROM+:OWN] = late;
    end
endmodule

`default_nettype wire
