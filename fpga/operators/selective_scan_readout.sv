// From the products c * h of a channel to y, which WIDE_OUTPUT puts below the accumulator.
//
// A number is named with the cycle in which it is there, counted from the end of the adder tree,
// which is $clog2(PN) cycles after the products. The result holds for a channel's last beat only.
`default_nettype none

module selective_scan_readout #(
    parameter int PN = 1,
    parameter int STATES = 1,
    parameter int INPUT_BITS = 8,
    parameter int STATE_BITS = 18,
    parameter int LOWER_BITS = 4,
    parameter int READ_ALIGN = 0,   // zeros below the sum over the states
    parameter int SKIP_BITS = 16,
    parameter int SKIP_ALIGN = 0,   // zeros below skip * x
    parameter int ACCUMULATOR_IN_BITS = 45,
    parameter int ACCUMULATOR_DROP = 12,
    parameter int ACCUMULATOR_BITS = 18,
    parameter logic [61:0] GAIN = 1,
    parameter int GAIN_BITS = 16,
    parameter int OUTPUT_SUM_BITS = 35,
    parameter int OUTPUT_DROP = 25,
    parameter int OUTPUT_BITS = 8,
    parameter bit WIDE_OUTPUT = 0,
    parameter int RESULT_BITS = 8
) (
    input  wire                                     ap_clk,
    input  wire  [PN*(STATE_BITS+INPUT_BITS)-1:0]   products,
    input  wire                                     restart_0,  // the first beat of a channel
    input  wire  [LOWER_BITS-1:0]                   lower_1,
    input  wire  signed [INPUT_BITS-1:0]            x_0,
    input  wire  signed [SKIP_BITS-1:0]             skip_0,
    output logic [RESULT_BITS-1:0]                  result_10
);
    localparam int SUM_BITS = STATE_BITS + INPUT_BITS + $clog2(STATES);
    logic signed [SUM_BITS-1:0] sum_0, total_1;
    selective_scan_sum #(
        .TERMS(PN),
        .TERM_BITS(STATE_BITS + INPUT_BITS),
        .BITS(SUM_BITS)
    ) adder_tree (
        .ap_clk(ap_clk),
        .terms(products),
        .sum(sum_0)
    );
    always_ff @(posedge ap_clk) total_1 <= restart_0 ? sum_0 : total_1 + sum_0;

    // lower: all channels get the fractional bits that the largest shift needs
    localparam int LOWERED_BITS = ACCUMULATOR_IN_BITS - READ_ALIGN;
    localparam int FINE_BITS = LOWER_BITS < 2 ? LOWER_BITS : 2;
    logic signed [LOWERED_BITS-1:0] lowered_2, lowered_3;
    always_ff @(posedge ap_clk)
        lowered_2 <= LOWERED_BITS'(total_1) <<< lower_1[FINE_BITS-1:0];
    if (LOWER_BITS > FINE_BITS) begin : coarse
        logic [LOWER_BITS-FINE_BITS-1:0] steps_2;
        always_ff @(posedge ap_clk) begin
            steps_2 <= lower_1[LOWER_BITS-1:FINE_BITS];
            lowered_3 <= lowered_2 <<< {steps_2, {FINE_BITS{1'b0}}};
        end
    end else begin : fine
        always_ff @(posedge ap_clk) lowered_3 <= lowered_2;
    end

    logic signed [SKIP_BITS+INPUT_BITS-1:0] skipped_3;
    selective_scan_multiply #(
        .A_BITS(SKIP_BITS),
        .B_BITS(INPUT_BITS),
        .P_BITS(SKIP_BITS + INPUT_BITS)
    ) skip_product (
        .ap_clk(ap_clk),
        .a(skip_0),
        .clear(1'b0),
        .b(x_0),
        .c('0),
        .p(skipped_3)
    );
    logic signed [ACCUMULATOR_IN_BITS-1:0] accumulator_4;
    always_ff @(posedge ap_clk)
        accumulator_4 <= (ACCUMULATOR_IN_BITS'(lowered_3) <<< READ_ALIGN)
                       + (ACCUMULATOR_IN_BITS'(skipped_3) <<< SKIP_ALIGN);

    localparam int ROUNDED_BITS = ACCUMULATOR_IN_BITS + 1;
    localparam logic signed [ROUNDED_BITS-1:0] ACCUMULATOR_HALF =
        ACCUMULATOR_DROP > 0 ? ROUNDED_BITS'(1) << (ACCUMULATOR_DROP - 1) : '0;
    logic signed [ROUNDED_BITS-1:0] rounded_5;
    logic signed [ACCUMULATOR_BITS-1:0] narrow_6;
    always_ff @(posedge ap_clk) rounded_5 <= ROUNDED_BITS'(accumulator_4) + ACCUMULATOR_HALF;
    selective_scan_cut #(
        .IN_BITS(ROUNDED_BITS),
        .DROP(ACCUMULATOR_DROP),
        .OUT_BITS(ACCUMULATOR_BITS)
    ) accumulator_cut (
        .ap_clk(ap_clk),
        .value(rounded_5),
        .result(narrow_6)
    );

    localparam logic signed [OUTPUT_SUM_BITS-1:0] OUTPUT_HALF =
        OUTPUT_DROP > 0 ? OUTPUT_SUM_BITS'(1) << (OUTPUT_DROP - 1) : '0;
    logic signed [OUTPUT_SUM_BITS-1:0] output_9;
    logic signed [OUTPUT_BITS-1:0] y_10;
    selective_scan_multiply #(
        .A_BITS(ACCUMULATOR_BITS),
        .B_BITS(GAIN_BITS + 1),
        .P_BITS(OUTPUT_SUM_BITS)
    ) gain_product (
        .ap_clk(ap_clk),
        .a(narrow_6),
        .clear(1'b0),
        .b((GAIN_BITS + 1)'(GAIN)),
        .c(OUTPUT_HALF),
        .p(output_9)
    );
    selective_scan_cut #(
        .IN_BITS(OUTPUT_SUM_BITS),
        .DROP(OUTPUT_DROP),
        .OUT_BITS(OUTPUT_BITS)
    ) output_cut (
        .ap_clk(ap_clk),
        .value(output_9),
        .result(y_10)
    );

`ifdef VERILATOR
    logic [ACCUMULATOR_IN_BITS-1:0] watched_10;  // by selective_scan
    selective_scan_delay #(
        .BITS(ACCUMULATOR_IN_BITS),
        .CYCLES(6)
    ) watched_delay (
        .ap_clk(ap_clk),
        .word(accumulator_4),
        .later(watched_10)
    );
`endif

    if (WIDE_OUTPUT) begin : wide
        logic [ACCUMULATOR_IN_BITS-1:0] accumulator_10;
        selective_scan_delay #(
            .BITS(ACCUMULATOR_IN_BITS),
            .CYCLES(6)
        ) accumulator_delay (
            .ap_clk(ap_clk),
            .word(accumulator_4),
            .later(accumulator_10)
        );
        assign result_10 = {accumulator_10, y_10};
    end else begin : narrow
        assign result_10 = y_10;
    end
endmodule

`default_nettype wire
