// One code times the weights of ROWS rows, in LUTs: for weights of up to 4 bits.
//
// A weight is two digits, w = low + 4 * high, low from 0 to 3 and high from -2 to 1. 3 * code and -code
// are made once for all rows; then a row selects low * code, and adds 4 * high * code, which the same
// LUTs select: a sum of what is registered and of two bits chosen by two has six inputs.
// The weights come a cycle after the code, the products two cycles after the weights.
`default_nettype none

module lut_products #(
    parameter int ROWS        = 1,
    parameter int WEIGHT_BITS = 4,
    parameter int CODE_BITS   = 9,   // signed
    parameter int FIELD_BITS  = 12   // of a product, signed
) (
    input  wire                               ap_clk,
    input  wire  [ROWS-1:0][WEIGHT_BITS-1:0]  weights,
    input  wire  [CODE_BITS-1:0]              code,
    output logic [ROWS-1:0][FIELD_BITS-1:0]   products
);
    localparam int LOW_BITS = CODE_BITS + 2;   // of 3 * code
    localparam int HIGH_BITS = CODE_BITS + 1;  // of -2 * code, and of -code
    localparam int SUM_BITS = CODE_BITS + 4;
    if (WEIGHT_BITS < 2 || WEIGHT_BITS > 4)
        $error("lut_products: WEIGHT_BITS=%0d, expected 2 to 4", WEIGHT_BITS);
    if (FIELD_BITS > SUM_BITS)
        $error("lut_products: FIELD_BITS=%0d, expected at most %0d", FIELD_BITS, SUM_BITS);

    // for the low digit, and a cycle later for the high one
    logic signed [LOW_BITS-1:0] once, thrice;
    logic signed [HIGH_BITS-1:0] plus_then, minus_then;
    always_ff @(posedge ap_clk) begin
        once <= LOW_BITS'(signed'(code));
        thrice <= LOW_BITS'(signed'(code)) + LOW_BITS'(signed'({code, 1'b0}));
        plus_then <= HIGH_BITS'(once);
        minus_then <= -HIGH_BITS'(once);
    end

    for (genvar r = 0; r < ROWS; r++) begin : gen_row
        wire [3:0] weight = 4'(signed'(weights[r]));
        logic [1:0] high;
        logic signed [LOW_BITS-1:0] low_part, low_next;
        logic signed [HIGH_BITS-1:0] high_part;
        logic signed [SUM_BITS-1:0] sum;

        always_comb begin
            case (weight[1:0])
                2'd0: low_next = '0;
                2'd1: low_next = once;
                2'd2: low_next = once <<< 1;
                default: low_next = thrice;
            endcase
            case (high)
                2'd0: high_part = '0;
                2'd1: high_part = plus_then;
                2'd2: high_part = minus_then <<< 1;
                default: high_part = minus_then;
            endcase
        end
        always_ff @(posedge ap_clk) begin
            low_part <= low_next;
            high <= weight[3:2];
            sum[1:0] <= low_part[1:0];
            sum[SUM_BITS-1:2] <= (SUM_BITS - 2)'(signed'(low_part[LOW_BITS-1:2])) +
                (SUM_BITS - 2)'(high_part);
        end
        assign products[r] = sum[FIELD_BITS-1:0];
        wire unused = &{1'b0, sum};
    end
endmodule

`default_nettype wire
