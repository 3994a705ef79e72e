// p = a * b + c as one DSP slice has it: registers before, behind the product and behind the sum.
//
// p follows a and b by 3 cycles and c by 1. Where `clear` is high, a counts as zero.
`default_nettype none

module selective_scan_multiply #(
    parameter int A_BITS = 2,
    parameter int B_BITS = 2,
    parameter int P_BITS = 4   // of c and p; what does not fit is lost
) (
    input  wire                      ap_clk,
    input  wire signed [A_BITS-1:0]  a,
    input  wire                      clear,
    input  wire signed [B_BITS-1:0]  b,
    input  wire signed [P_BITS-1:0]  c,
    output logic signed [P_BITS-1:0] p
);
    logic signed [A_BITS-1:0] a_held;
    logic signed [B_BITS-1:0] b_held;
    (* use_dsp = "yes" *) logic signed [A_BITS+B_BITS-1:0] product;

    always_ff @(posedge ap_clk) begin
        a_held <= clear ? '0 : a;
        b_held <= b;
        product <= a_held * b_held;
        p <= P_BITS'(product) + c;
    end
endmodule

`default_nettype wire
