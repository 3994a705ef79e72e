// A queue in LUTs behind a pipeline that never waits, and the credits for its places.
//
// Whoever starts a word spends a credit; the word is pushed when it comes, some cycles later. The
// place is free again, and so is the credit, once the word is taken. `credit` and `offered` are
// flip-flops: each is the sign of a count that is kept less 1.
`default_nettype none

module window_queue #(
    parameter int BITS = 8,
    parameter int DEPTH = 16  // a power of two
) (
    input  wire              ap_clk,
    input  wire              ap_rst_n,

    output logic             credit,  // a place is free for a word that starts now
    input  wire              spend,
    input  wire              push,
    input  wire  [BITS-1:0]  word,

    output logic             offered,
    output logic [BITS-1:0]  head,
    input  wire              take     // never without an offer
);
    localparam int ADDRESS_BITS = $clog2(DEPTH);
    if (DEPTH < 2 || DEPTH != 1 << ADDRESS_BITS)
        $error("window_queue: DEPTH=%0d, expected a power of two", DEPTH);

    (* ram_style = "distributed" *) logic [BITS-1:0] memory [DEPTH];
    logic [ADDRESS_BITS-1:0] write, read;
    logic signed [ADDRESS_BITS+1:0] free, waiting;  // each less 1

    assign credit = !free[ADDRESS_BITS+1];
    assign offered = !waiting[ADDRESS_BITS+1];
    assign head = memory[read];

    always_ff @(posedge ap_clk) if (push) memory[write] <= word;

    always_ff @(posedge ap_clk) begin
        if (!ap_rst_n) begin
            write <= '0;
            read <= '0;
            free <= (ADDRESS_BITS + 2)'(DEPTH - 1);
            waiting <= '1;
        end else begin
            if (push) write <= write + 1'b1;
            if (take) read <= read + 1'b1;
            if (spend != take) free <= spend ? free - 1'b1 : free + 1'b1;
            if (push != take) waiting <= push ? waiting + 1'b1 : waiting - 1'b1;
        end
    end
endmodule

`default_nettype wire
