// The sum of N signed numbers, a register behind every level of the tree; modulo 2**BITS.
//
// Latency $clog2(N) cycles of en, none for N = 1.
`default_nettype none

module adder_tree #(
    parameter int N    = 1,
    parameter int BITS = 8
) (
    input  wire                     ap_clk,
    input  wire                     en,
    input  wire  [N-1:0][BITS-1:0]  terms,
    output logic [BITS-1:0]         sum
);
    if (N < 1) $error("adder_tree: N=%0d, expected 1 or more", N);

    if (N == 1) begin : gen_one
        assign sum = terms[0];
        wire unused = &{1'b0, ap_clk, en};
    end else begin : gen_tree
        localparam int HALF = (N + 1) / 2;
        logic [HALF-1:0][BITS-1:0] pairs;
        always_ff @(posedge ap_clk) begin
            if (en) begin
                for (int i = 0; i < HALF; i++)
                    pairs[i] <= 2 * i + 1 < N ? terms[2*i] + terms[(2*i+1)%N] : terms[2*i];
            end
        end
        adder_tree #(.N(HALF), .BITS(BITS)) rest (.ap_clk, .en, .terms(pairs), .sum);
    end
endmodule

`default_nettype wire
