// Accumulators to codes: clip((x * multiplier + offset) >> (SHIFT + shift), LOW, HIGH) per channel.
//
// PE channels a beat, CHANNELS / PE beats a pixel. The constants of a beat are one word of the ROM:
// for each lane {multiplier, offset, shift}, lane 0 in the low bits. Without MULTIPLY there is no
// multiplier, in the ROM neither. A lane's multiplier, its registers and the adder fit one DSP48E2
// where INPUT_BITS <= 27, MULTIPLIER_BITS <= 17 (or 18 and 26) and SUM_BITS <= 48.
// Throughput one beat a cycle.
`default_nettype none

module requantize #(
    parameter int PE = 1,
    parameter int BEATS = 1,            // of a pixel
    parameter int INPUT_BITS = 16,
    parameter int INPUT_SIGNED = 1,
    parameter int OUTPUT_BITS = 8,
    parameter int MULTIPLY = 1,
    parameter int MULTIPLIER_BITS = 17, // unsigned
    parameter int OFFSET_BITS = 32,     // signed
    parameter int SUM_BITS = 48,        // signed, of x * multiplier + offset
    parameter int SHIFT = 0,            // by which every channel is shifted
    parameter int SHIFT_BITS = 0,       // of a channel's further shift; 0 where there is none
    parameter int LOW = -128,
    parameter int HIGH = 127,
    parameter string CONSTANTS = "constants.dat"
) (
    input  wire                                      ap_clk,
    input  wire                                      ap_rst_n,

    input  wire  [((PE*INPUT_BITS+7)/8)*8-1:0]       in0_V_tdata,
    input  wire                                      in0_V_tvalid,
    output logic                                     in0_V_tready,

    output logic [((PE*OUTPUT_BITS+7)/8)*8-1:0]      out0_V_tdata,
    output logic                                     out0_V_tvalid,
    input  wire                                      out0_V_tready
);
    if (PE < 1 || BEATS < 1) $error("requantize: PE=%0d, BEATS=%0d, expected 1 or more", PE, BEATS);
    if (SUM_BITS > 48 || SUM_BITS < OFFSET_BITS)
        $error("requantize: SUM_BITS=%0d, expected %0d to 48", SUM_BITS, OFFSET_BITS);
    if (SHIFT < 0 || SHIFT >= SUM_BITS)
        $error("requantize: SHIFT=%0d, expected 0 to %0d", SHIFT, SUM_BITS - 1);
    if (LOW > HIGH) $error("requantize: LOW=%0d is above HIGH=%0d", LOW, HIGH);

    localparam int X_BITS = INPUT_BITS + (INPUT_SIGNED == 0 ? 1 : 0);
    localparam int M_BITS = MULTIPLY != 0 ? MULTIPLIER_BITS : 0;
    localparam int S_ROOM = SHIFT_BITS > 0 ? SHIFT_BITS : 1;
    localparam int PRODUCT_BITS = X_BITS + (MULTIPLY != 0 ? MULTIPLIER_BITS + 1 : 0);
    localparam int LANE_BITS = M_BITS + OFFSET_BITS + SHIFT_BITS;
    localparam int KEPT_BITS = SUM_BITS - SHIFT;
    localparam int CLIP_BITS = (KEPT_BITS > OUTPUT_BITS ? KEPT_BITS : OUTPUT_BITS) + 1;
    localparam int STAGES = 5;

    logic [PE*LANE_BITS-1:0] constants [BEATS];
    initial $readmemh(CONSTANTS, constants);

    logic step;  // every stage moves on
    logic [STAGES-1:0] valid;
    logic [PE*OUTPUT_BITS-1:0] codes;

    assign in0_V_tready = step;

    always_ff @(posedge ap_clk) begin
        if (!ap_rst_n) valid <= '0;
        else if (step) valid <= {valid[STAGES-2:0], in0_V_tvalid};
    end

    logic [PE*LANE_BITS-1:0] word;
    if (BEATS > 1) begin : g_count
        logic [$clog2(BEATS)-1:0] beat;
        always_ff @(posedge ap_clk) begin
            if (!ap_rst_n) beat <= '0;
            else if (step && in0_V_tvalid)
                beat <= beat == $bits(beat)'(BEATS - 1) ? '0 : beat + 1'b1;
        end
        always_ff @(posedge ap_clk) if (step) word <= constants[beat];
    end else begin : g_single
        always_ff @(posedge ap_clk) if (step) word <= constants[0];
    end

    for (genvar lane = 0; lane < PE; lane++) begin : g_lane
        wire [LANE_BITS-1:0] own = word[lane*LANE_BITS +: LANE_BITS];

        logic signed [X_BITS-1:0] x;
        logic signed [PRODUCT_BITS-1:0] product;
        logic signed [SUM_BITS-1:0] sum;
        logic signed [OFFSET_BITS-1:0] offset;
        logic [S_ROOM-1:0] shift_1, shift_2;
        logic signed [KEPT_BITS-1:0] shifted;
        logic [OUTPUT_BITS-1:0] code;

        wire [INPUT_BITS-1:0] raw = in0_V_tdata[lane*INPUT_BITS +: INPUT_BITS];
        always_ff @(posedge ap_clk) begin
            if (step) begin
                if (INPUT_SIGNED != 0) x <= X_BITS'(signed'(raw));
                else x <= X_BITS'(raw);
                offset <= own[SHIFT_BITS +: OFFSET_BITS];
                sum <= SUM_BITS'(product) + SUM_BITS'(offset);
            end
        end

        if (MULTIPLY != 0) begin : g_multiply
            // the multiplier is unsigned: a 0 is its sign
            wire signed [M_BITS:0] multiplier = {1'b0, own[OFFSET_BITS+SHIFT_BITS +: M_BITS]};
            always_ff @(posedge ap_clk) if (step) product <= x * multiplier;
        end else begin : g_no_multiplier
            always_ff @(posedge ap_clk) if (step) product <= x;
        end

        wire signed [KEPT_BITS-1:0] kept = sum[SUM_BITS-1:SHIFT];
        if (SHIFT_BITS > 0) begin : g_shift
            always_ff @(posedge ap_clk) begin
                if (step) begin
                    shift_1 <= own[0 +: S_ROOM];
                    shift_2 <= shift_1;
                    shifted <= kept >>> shift_2;
                end
            end
        end else begin : g_no_shift
            always_ff @(posedge ap_clk) if (step) shifted <= kept;
            assign {shift_1, shift_2} = '0;
        end

        wire signed [CLIP_BITS-1:0] wide = CLIP_BITS'(shifted);
        always_ff @(posedge ap_clk) begin
            if (step) begin
                if (wide < CLIP_BITS'(LOW)) code <= OUTPUT_BITS'(LOW);
                else if (wide > CLIP_BITS'(HIGH)) code <= OUTPUT_BITS'(HIGH);
                else code <= wide[OUTPUT_BITS-1:0];
            end
        end
        assign codes[lane*OUTPUT_BITS +: OUTPUT_BITS] = code;
    end

    stream_register #(.BITS(PE*OUTPUT_BITS)) register (
        .ap_clk, .ap_rst_n,
        .in0_V_tdata(((PE*OUTPUT_BITS+7)/8*8)'(codes)), .in0_V_tvalid(valid[STAGES-1]),
        .in0_V_tready(step),
        .out0_V_tdata, .out0_V_tvalid, .out0_V_tready
    );
endmodule

`default_nettype wire
