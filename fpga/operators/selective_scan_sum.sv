// The sum of TERMS words in a tree of adders with a register behind each.
//
// Latency $clog2(TERMS).
`default_nettype none

module selective_scan_sum #(
    parameter int TERMS = 2,
    parameter int TERM_BITS = 8,
    parameter int BITS = 9
) (
    input  wire                           ap_clk,
    input  wire  [TERMS*TERM_BITS-1:0]    terms,
    output logic signed [BITS-1:0]        sum
);
    localparam int LEAVES = 1 << $clog2(TERMS);

    // Node i is the sum of nodes 2 i and 2 i + 1; the last LEAVES nodes are the terms.
    logic [2*LEAVES-1:1][BITS-1:0] node;
    for (genvar i = 0; i < LEAVES; i++) begin : leaf
        if (i < TERMS) begin : term
            wire signed [TERM_BITS-1:0] word = terms[i*TERM_BITS+:TERM_BITS];
            assign node[LEAVES+i] = BITS'(word);
        end else begin : none
            assign node[LEAVES+i] = '0;
        end
    end
    for (genvar i = 1; i < LEAVES; i++) begin : adder
        logic [BITS-1:0] total;
        always_ff @(posedge ap_clk) total <= node[2*i] + node[2*i+1];
        assign node[i] = total;
    end
    assign sum = node[1];
endmodule

`default_nettype wire
