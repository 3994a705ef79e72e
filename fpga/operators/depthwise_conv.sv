// A depthwise convolution: for each group of PE channels the sum of all taps times their weights.
//
// The input is a depthwise window: for each group TAPS / SIMD beats, each with SIMD taps of PE
// channels, channels innermost. WEIGHTS has a word for each beat of a pixel in the same order:
// (tap of the beat, channel of the group), channels innermost. Accumulators come out, one beat for
// each group. Throughput one input beat a cycle. With SIMD = 1 a lane is one DSP48E2.
`default_nettype none

module depthwise_conv #(
    parameter int PE = 1,
    parameter int SIMD = 1,
    parameter int TAPS = 9,
    parameter int GROUPS = 1,         // channels / PE
    parameter int INPUT_BITS = 8,
    parameter int INPUT_SIGNED = 1,
    parameter int WEIGHT_BITS = 8,    // signed
    parameter int OUTPUT_BITS = 20,   // signed; must hold every result
    parameter     WEIGHTS = "weights.dat",
    parameter     ROM_STYLE = "auto"
) (
    input  wire                                        ap_clk,
    input  wire                                        ap_rst_n,

    input  wire  [((PE*SIMD*INPUT_BITS+7)/8)*8-1:0]    in0_V_tdata,
    input  wire                                        in0_V_tvalid,
    output logic                                       in0_V_tready,

    output logic [((PE*OUTPUT_BITS+7)/8)*8-1:0]        out0_V_tdata,
    output logic                                       out0_V_tvalid,
    input  wire                                        out0_V_tready
);
    if (PE < 1 || GROUPS < 1)
        $error("depthwise_conv: PE=%0d, GROUPS=%0d, expected 1 or more", PE, GROUPS);
    if (SIMD < 1 || TAPS % SIMD != 0)
        $error("depthwise_conv: SIMD=%0d does not divide TAPS=%0d", SIMD, TAPS);

    localparam int X_BITS = INPUT_BITS + (INPUT_SIGNED == 0 ? 1 : 0);
    localparam int BEATS = TAPS / SIMD;         // of a group
    localparam int WORDS = GROUPS * BEATS;
    localparam int PRODUCT_BITS = X_BITS + WEIGHT_BITS;
    localparam int SUM_BITS = PRODUCT_BITS + $clog2(SIMD);
    localparam int STAGES = SIMD > 1 ? 4 : 3;   // operands, products, [their sum], accumulator
    localparam int BEAT_BITS = BEATS > 1 ? $clog2(BEATS) : 1;

    (* rom_style = ROM_STYLE *) logic [PE*SIMD*WEIGHT_BITS-1:0] weights [WORDS];
    initial $readmemh(WEIGHTS, weights);

    logic step;
    logic [STAGES-1:0] valid, first, last;  // by stage
    logic [BEAT_BITS-1:0] beat;
    logic [PE*SIMD*WEIGHT_BITS-1:0] word;
    logic [PE*OUTPUT_BITS-1:0] sums;

    assign in0_V_tready = step;

    always_ff @(posedge ap_clk) begin
        if (!ap_rst_n) begin
            beat <= '0;
            valid <= '0;
        end else if (step) begin
            if (in0_V_tvalid) beat <= beat == BEAT_BITS'(BEATS - 1) ? '0 : beat + 1'b1;
            valid <= {valid[STAGES-2:0], in0_V_tvalid};
        end
    end
    always_ff @(posedge ap_clk) begin
        if (step) begin
            first <= {first[STAGES-2:0], beat == '0};
            last <= {last[STAGES-2:0], beat == BEAT_BITS'(BEATS - 1)};
        end
    end

    if (WORDS > 1) begin : g_address
        logic [$clog2(WORDS)-1:0] address;
        always_ff @(posedge ap_clk) begin
            if (!ap_rst_n) address <= '0;
            else if (step && in0_V_tvalid)
                address <= address == $bits(address)'(WORDS - 1) ? '0 : address + 1'b1;
        end
        always_ff @(posedge ap_clk) if (step) word <= weights[address];
    end else begin : g_single
        always_ff @(posedge ap_clk) if (step) word <= weights[0];
    end

    for (genvar lane = 0; lane < PE; lane++) begin : g_lane
        (* use_dsp = "yes" *) logic signed [OUTPUT_BITS-1:0] accumulator;
        (* use_dsp = "yes" *) logic signed [PRODUCT_BITS-1:0] products [SIMD];
        logic signed [SUM_BITS-1:0] sum;

        for (genvar tap = 0; tap < SIMD; tap++) begin : g_tap
            localparam int PLACE = tap * PE + lane;
            wire [INPUT_BITS-1:0] raw = in0_V_tdata[PLACE*INPUT_BITS +: INPUT_BITS];
            wire signed [WEIGHT_BITS-1:0] weight = word[PLACE*WEIGHT_BITS +: WEIGHT_BITS];
            logic signed [X_BITS-1:0] x;
            always_ff @(posedge ap_clk) begin
                if (step) begin
                    if (INPUT_SIGNED != 0) x <= X_BITS'(signed'(raw));
                    else x <= X_BITS'(raw);
                    products[tap] <= x * weight;
                end
            end
        end

        if (SIMD > 1) begin : g_sum
            logic signed [SUM_BITS-1:0] tree;
            always_comb begin
                tree = '0;
                for (int tap = 0; tap < SIMD; tap++) tree += SUM_BITS'(products[tap]);
            end
            always_ff @(posedge ap_clk) if (step) sum <= tree;
        end else begin : g_one
            assign sum = products[0];
        end

        always_ff @(posedge ap_clk)
            if (step && valid[STAGES-2])
                accumulator <= OUTPUT_BITS'(sum) + (first[STAGES-2] ? '0 : accumulator);
        assign sums[lane*OUTPUT_BITS +: OUTPUT_BITS] = accumulator;
    end

    stream_register #(.BITS(PE*OUTPUT_BITS)) register (
        .ap_clk, .ap_rst_n,
        .in0_V_tdata(((PE*OUTPUT_BITS+7)/8*8)'(sums)),
        .in0_V_tvalid(valid[STAGES-1] && last[STAGES-1]), .in0_V_tready(step),
        .out0_V_tdata, .out0_V_tvalid, .out0_V_tready
    );
endmodule

`default_nettype wire
