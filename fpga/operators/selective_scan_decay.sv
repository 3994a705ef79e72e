// decay = 2 ** -(delta * rate), with the cuts exponent, mantissa and decay.
//
// The fraction of the exponent selects one of 2 ** SEGMENT_BITS straight lines; its integer part
// shifts the line's value right. Latency 10.
`default_nettype none

module selective_scan_decay #(
    parameter int DELTA_BITS = 16,
    parameter int RATE_BITS = 12,
    parameter int EXPONENT_SUM_BITS = 30,  // of the product and the half, with a sign
    parameter int EXPONENT_DROP = 7,
    parameter int EXPONENT_BITS = 21,
    parameter int EXPONENT_FRAC = 16,
    parameter int SEGMENT_BITS = 5,
    parameter int VALUE_BITS = 16,
    parameter int FALL_BITS = 11,          // of a line's negative slope, with its sign
    parameter int DEEPEST_SHIFT = 17,      // shifts to a decay of zero
    parameter int DECAY_DROP = 0,          // fractional bits of the mantissa less those of decay
    parameter int DECAY_BITS = 16,
    parameter     EXP2_FILE = ""           // {value, fall} of each segment
) (
    input  wire                    ap_clk,
    input  wire  [DELTA_BITS-1:0]  delta,
    input  wire  [RATE_BITS-1:0]   rate,
    output logic [DECAY_BITS-1:0]  decay
);
    localparam int LOW_BITS = EXPONENT_FRAC - SEGMENT_BITS;
    if (SEGMENT_BITS < 1 || LOW_BITS < 1)
        $error("selective_scan_decay: SEGMENT_BITS=%0d of %0d", SEGMENT_BITS, EXPONENT_FRAC);

    // cycles 0 to 4: the exponent
    localparam logic signed [EXPONENT_SUM_BITS-1:0] EXPONENT_HALF =
        EXPONENT_DROP > 0 ? EXPONENT_SUM_BITS'(1) << (EXPONENT_DROP - 1) : '0;
    logic signed [EXPONENT_SUM_BITS-1:0] exponent_sum;
    logic [EXPONENT_BITS-1:0] exponent;
    selective_scan_multiply #(
        .A_BITS(DELTA_BITS + 1),
        .B_BITS(RATE_BITS + 1),
        .P_BITS(EXPONENT_SUM_BITS)
    ) exponent_product (
        .ap_clk(ap_clk),
        .a({1'b0, delta}),
        .clear(1'b0),
        .b({1'b0, rate}),
        .c(EXPONENT_HALF),
        .p(exponent_sum)
    );
    selective_scan_cut #(
        .IN_BITS(EXPONENT_SUM_BITS),
        .DROP(EXPONENT_DROP),
        .OUT_BITS(EXPONENT_BITS),
        .SIGNED(1'b0)
    ) exponent_cut (
        .ap_clk(ap_clk),
        .value(exponent_sum),
        .result(exponent)
    );

    // cycles 4 to 7: the line of the segment
    localparam int WHOLE_BITS = EXPONENT_BITS > EXPONENT_FRAC ? EXPONENT_BITS - EXPONENT_FRAC : 1;
    localparam int LARGEST_WHOLE = (1 << WHOLE_BITS) - 1;
    localparam int LARGEST_SHIFT =
        LARGEST_WHOLE < DEEPEST_SHIFT ? LARGEST_WHOLE : DEEPEST_SHIFT;
    localparam int SHIFT_BITS = $clog2(LARGEST_SHIFT + 1);
    localparam int LINE_BITS = VALUE_BITS + LOW_BITS + 1;
    wire [WHOLE_BITS+EXPONENT_FRAC-1:0] extended = (WHOLE_BITS + EXPONENT_FRAC)'(exponent);
    wire [WHOLE_BITS-1:0] whole = extended[EXPONENT_FRAC+:WHOLE_BITS];
    wire [SEGMENT_BITS-1:0] segment = extended[LOW_BITS+:SEGMENT_BITS];
    wire [LOW_BITS-1:0] low = extended[LOW_BITS-1:0];

    (* rom_style = "distributed" *) logic [VALUE_BITS+FALL_BITS-1:0] exp2[1<<SEGMENT_BITS];
    initial $readmemh(EXP2_FILE, exp2);
    wire [VALUE_BITS+FALL_BITS-1:0] entry = exp2[segment];

    localparam logic [LOW_BITS-1:0] MANTISSA_HALF = LOW_BITS'(1) << (LOW_BITS - 1);
    logic [VALUE_BITS-1:0] value;
    logic signed [LINE_BITS-1:0] line;
    selective_scan_delay #(
        .BITS(VALUE_BITS),
        .CYCLES(2)
    ) value_delay (
        .ap_clk(ap_clk),
        .word(entry[FALL_BITS+:VALUE_BITS]),
        .later(value)
    );
    selective_scan_multiply #(
        .A_BITS(FALL_BITS),
        .B_BITS(LOW_BITS + 1),
        .P_BITS(LINE_BITS)
    ) line_product (
        .ap_clk(ap_clk),
        .a(entry[FALL_BITS-1:0]),
        .clear(1'b0),
        .b({1'b0, low}),
        .c({1'b0, value, MANTISSA_HALF}),
        .p(line)
    );
    // No line leaves the range of its ends, so that the cut has nothing to saturate.
    wire [VALUE_BITS-1:0] mantissa = line[LOW_BITS+:VALUE_BITS];
    wire unused = &{1'b0, line[LINE_BITS-1], line[LOW_BITS-1:0]};

    logic [SHIFT_BITS-1:0] shift, shift_later;
    always_ff @(posedge ap_clk)
        shift <= 32'(whole) > DEEPEST_SHIFT ? SHIFT_BITS'(DEEPEST_SHIFT) : SHIFT_BITS'(whole);
    selective_scan_delay #(
        .BITS(SHIFT_BITS),
        .CYCLES(2)
    ) shift_delay (
        .ap_clk(ap_clk),
        .word(shift),
        .later(shift_later)
    );

    // cycles 7 to 10: the shift, with one bit below the decay's last to round by
    localparam int APPENDED = 1 + (DECAY_DROP < 0 ? -DECAY_DROP : 0);
    localparam int DROPPED = DECAY_DROP > 0 ? DECAY_DROP : 0;
    localparam int WIDE_BITS = VALUE_BITS + APPENDED;
    localparam int FINE_BITS = SHIFT_BITS < 2 ? SHIFT_BITS : 2;
    logic [WIDE_BITS-1:0] finely, shifted;
    wire [WIDE_BITS-1:0] unshifted = {mantissa, {APPENDED{1'b0}}};
    always_ff @(posedge ap_clk) finely <= unshifted >> shift_later[FINE_BITS-1:0];
    if (SHIFT_BITS > FINE_BITS) begin : coarse
        logic [SHIFT_BITS-FINE_BITS-1:0] steps;
        always_ff @(posedge ap_clk) begin
            steps <= shift_later[SHIFT_BITS-1:FINE_BITS];
            shifted <= finely >> {steps, {FINE_BITS{1'b0}}};
        end
    end else begin : fine
        always_ff @(posedge ap_clk) shifted <= finely;
    end
    localparam logic signed [WIDE_BITS+1:0] DECAY_HALF = (WIDE_BITS + 2)'(1);
    wire [WIDE_BITS-1:0] doubled = shifted >> DROPPED;
    selective_scan_cut #(
        .IN_BITS(WIDE_BITS + 2),
        .DROP(1),
        .OUT_BITS(DECAY_BITS),
        .SIGNED(1'b0)
    ) decay_cut (
        .ap_clk(ap_clk),
        .value($signed({2'b0, doubled}) + DECAY_HALF),
        .result(decay)
    );
endmodule

`default_nettype wire
