// One state update a cycle: h = decay * h + drive * b, cut, and its product with c.
//
// A number is named with the cycle in which it is there, counted from the issue of its update.
`default_nettype none

module selective_scan_lane #(
    parameter int INPUT_BITS = 8,
    parameter int DELTA_BITS = 16,
    parameter int RATE_BITS = 12,
    parameter int EXPONENT_SUM_BITS = 30,
    parameter int EXPONENT_DROP = 7,
    parameter int EXPONENT_BITS = 21,
    parameter int EXPONENT_FRAC = 16,
    parameter int SEGMENT_BITS = 5,
    parameter int VALUE_BITS = 16,
    parameter int FALL_BITS = 11,
    parameter int DEEPEST_SHIFT = 17,
    parameter int DECAY_DROP = 0,
    parameter int DECAY_BITS = 16,
    parameter int DRIVE_BITS = 18,
    parameter int DECAYED_ALIGN = 0,  // zeros below decay * h, which bring it to the sum's fraction
    parameter int INFLOW_ALIGN = 9,   // zeros below drive * b
    parameter int STATE_SUM_BITS = 36,
    parameter int STATE_DROP = 15,
    parameter int STATE_BITS = 18,
    parameter     EXP2_FILE = ""
) (
    input  wire                                     ap_clk,
    input  wire  [DELTA_BITS-1:0]                   delta_2,
    input  wire  [RATE_BITS-1:0]                    rate_2,
    input  wire  signed [DRIVE_BITS-1:0]            drive_11,
    input  wire  signed [INPUT_BITS-1:0]            b_11,
    input  wire                                     first_12,  // there is no state yet
    input  wire  signed [STATE_BITS-1:0]            old_12,
    input  wire  signed [INPUT_BITS-1:0]            c_16,
    output logic signed [STATE_BITS-1:0]            new_16,
    output logic signed [STATE_BITS+INPUT_BITS-1:0] read_19
);
    logic [DECAY_BITS-1:0] decay_12;
    selective_scan_decay #(
        .DELTA_BITS(DELTA_BITS),
        .RATE_BITS(RATE_BITS),
        .EXPONENT_SUM_BITS(EXPONENT_SUM_BITS),
        .EXPONENT_DROP(EXPONENT_DROP),
        .EXPONENT_BITS(EXPONENT_BITS),
        .EXPONENT_FRAC(EXPONENT_FRAC),
        .SEGMENT_BITS(SEGMENT_BITS),
        .VALUE_BITS(VALUE_BITS),
        .FALL_BITS(FALL_BITS),
        .DEEPEST_SHIFT(DEEPEST_SHIFT),
        .DECAY_DROP(DECAY_DROP),
        .DECAY_BITS(DECAY_BITS),
        .EXP2_FILE(EXP2_FILE)
    ) decays (
        .ap_clk(ap_clk),
        .delta(delta_2),
        .rate(rate_2),
        .decay(decay_12)
    );

    // The state's half is added here where it lies within the product, else below it.
    localparam int HALF_BIT = STATE_DROP - 1;
    localparam int INFLOW_BITS = STATE_SUM_BITS - INFLOW_ALIGN;
    localparam logic signed [INFLOW_BITS-1:0] INFLOW_HALF =
        HALF_BIT >= INFLOW_ALIGN ? INFLOW_BITS'(1) << (HALF_BIT - INFLOW_ALIGN) : '0;
    localparam logic signed [STATE_SUM_BITS-1:0] BELOW_HALF =
        HALF_BIT >= 0 && HALF_BIT < INFLOW_ALIGN ? STATE_SUM_BITS'(1) << HALF_BIT : '0;
    logic signed [INFLOW_BITS-1:0] inflow_14;
    selective_scan_multiply #(
        .A_BITS(DRIVE_BITS),
        .B_BITS(INPUT_BITS),
        .P_BITS(INFLOW_BITS)
    ) inflow_product (
        .ap_clk(ap_clk),
        .a(drive_11),
        .clear(1'b0),
        .b(b_11),
        .c(INFLOW_HALF),
        .p(inflow_14)
    );

    logic signed [STATE_SUM_BITS-1:0] sum_15;
    selective_scan_multiply #(
        .A_BITS(STATE_BITS),
        .B_BITS(DECAY_BITS + DECAYED_ALIGN + 1),
        .P_BITS(STATE_SUM_BITS)
    ) state_product (
        .ap_clk(ap_clk),
        .a(old_12),
        .clear(first_12),
        .b((DECAY_BITS + DECAYED_ALIGN + 1)'(decay_12) << DECAYED_ALIGN),
        .c((STATE_SUM_BITS'(inflow_14) <<< INFLOW_ALIGN) | BELOW_HALF),
        .p(sum_15)
    );
    selective_scan_cut #(
        .IN_BITS(STATE_SUM_BITS),
        .DROP(STATE_DROP),
        .OUT_BITS(STATE_BITS)
    ) state_cut (
        .ap_clk(ap_clk),
        .value(sum_15),
        .result(new_16)
    );

    selective_scan_multiply #(
        .A_BITS(STATE_BITS),
        .B_BITS(INPUT_BITS),
        .P_BITS(STATE_BITS + INPUT_BITS)
    ) read_product (
        .ap_clk(ap_clk),
        .a(new_16),
        .clear(1'b0),
        .b(c_16),
        .c('0),
        .p(read_19)
    );
endmodule

`default_nettype wire
