// The sum of N numbers, a register behind every level of the tree; modulo 2**LIMIT.
//
// A level is one bit wider than the one before it, up to LIMIT bits. With CARRIED every term has a bit
// of its own that is added too; they go in as the adders' carries, and one is left at the end: what is
// summed up is sum + left. Latency $clog2(N) cycles, none for N = 1.
`default_nettype none

module adder_tree #(
    parameter int N       = 1,
    parameter int BITS    = 8,   // of a term
    parameter int LIMIT   = 48,  // at least BITS
    parameter bit SIGNED  = 0,   // whether terms and sum are
    parameter bit CARRIED = 0,
    parameter int OUT     = BITS + $clog2(N) < LIMIT ? BITS + $clog2(N) : LIMIT  // not to be set
) (
    input  wire                     ap_clk,
    input  wire  [N-1:0][BITS-1:0]  terms,
    input  wire  [N-1:0]            carries,  // ignored without CARRIED
    output logic [OUT-1:0]          sum,
    output logic                    left
);
    if (N < 1) $error("adder_tree: N=%0d, expected 1 or more", N);
    if (LIMIT < BITS) $error("adder_tree: LIMIT=%0d, expected %0d or more", LIMIT, BITS);

    if (N == 1) begin : gen_one
        assign sum = terms[0];
        assign left = CARRIED && carries[0];
        wire unused = &{1'b0, ap_clk};
    end else begin : gen_tree
        localparam int HALF = (N + 1) / 2;
        localparam int ODD = N % 2;  // the last term waits, as the first one of the next level
        localparam int NEXT = BITS < LIMIT ? BITS + 1 : LIMIT;
        logic [HALF-1:0][NEXT-1:0] pairs;
        logic [HALF-1:0] carries_left;

        for (genvar i = 0; i < HALF; i++) begin : gen_pair
            localparam int FIRST = i < ODD ? N - 1 : 2 * (i - ODD);
            wire [NEXT-1:0] a = NEXT'({SIGNED && terms[FIRST][BITS-1], terms[FIRST]});
            if (i >= ODD) begin : gen_two
                wire [NEXT-1:0] b = NEXT'({SIGNED && terms[FIRST+1][BITS-1], terms[FIRST+1]});
                if (CARRIED) begin : gen_carry
                    // a bit below, so that the carry goes into the same chain
                    logic below;
                    always_ff @(posedge ap_clk) begin
                        {pairs[i], below} <= {a, 1'b1} + {b, carries[FIRST]};
                        carries_left[i] <= carries[FIRST+1];
                    end
                    wire unused = &{1'b0, below};
                end else begin : gen_plain
                    always_ff @(posedge ap_clk) pairs[i] <= a + b;
                    assign carries_left[i] = 1'b0;
                end
            end else begin : gen_waits
                always_ff @(posedge ap_clk) pairs[i] <= a;
                if (CARRIED) begin : gen_carry
                    always_ff @(posedge ap_clk) carries_left[i] <= carries[FIRST];
                end else begin : gen_plain
                    assign carries_left[i] = 1'b0;
                end
            end
        end
        adder_tree #(
            .N(HALF), .BITS(NEXT), .LIMIT(LIMIT), .SIGNED(SIGNED), .CARRIED(CARRIED)
        ) rest (.ap_clk, .terms(pairs), .carries(carries_left), .sum, .left);
    end
    if (!CARRIED) begin : gen_unused
        wire unused = &{1'b0, carries};
    end
endmodule

`default_nettype wire
