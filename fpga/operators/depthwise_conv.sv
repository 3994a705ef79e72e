// A depthwise convolution: for each group of PE channels the sum of all taps times their weights.
//
// The input is a depthwise window: for each group TAPS / SIMD beats, each with SIMD taps of PE
// channels, channels innermost. WEIGHTS has a word for each beat of a pixel in the same order:
// (tap of the beat, channel of the group), channels innermost. Accumulators come out, one beat for
// each group. Throughput one input beat a cycle.
//
// With SIMD = 1 a lane is one DSP48E2. Else chains of DSPs add up to CHAIN taps (packed_products.sv),
// a tree adds the chains, an accumulator the beats. Nothing waits in the pipeline: the first beat of
// a group takes a credit, a free place in the queue at the end.
`default_nettype none

module depthwise_conv #(
    parameter int    PE = 1,
    parameter int    SIMD = 1,
    parameter int    TAPS = 9,
    parameter int    GROUPS = 1,         // channels / PE
    parameter int    INPUT_BITS = 8,
    parameter int    INPUT_SIGNED = 1,
    parameter int    WEIGHT_BITS = 8,    // signed
    parameter int    OUTPUT_BITS = 20,   // signed; must hold every result
    parameter int    CHAIN = 1,          // taps that the DSPs add
    parameter string WEIGHTS = "weights.dat",
    parameter string ROM_STYLE = "auto"
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
    if (CHAIN < 1 || CHAIN > SIMD)
        $error("depthwise_conv: CHAIN=%0d, expected 1 to SIMD=%0d", CHAIN, SIMD);

    localparam int X_BITS = INPUT_BITS + (INPUT_SIGNED == 0 ? 1 : 0);
    localparam int BEATS = TAPS / SIMD;         // of a group
    localparam int WORDS = GROUPS * BEATS;
    localparam int CHAINS = (SIMD + CHAIN - 1) / CHAIN;
    localparam int ABSENT = CHAINS * CHAIN - SIMD;  // first places that the last chain lacks
    localparam int FIELD_MOST = X_BITS + WEIGHT_BITS + $clog2(CHAIN);
    localparam int FIELD_BITS = FIELD_MOST < OUTPUT_BITS ? FIELD_MOST : OUTPUT_BITS;
    localparam int TREE_MOST = FIELD_BITS + $clog2(CHAINS);
    localparam int TREE_BITS = TREE_MOST < OUTPUT_BITS ? TREE_MOST : OUTPUT_BITS;
    // what is in a register in cycle i after its issue: word and beat 1, what is accumulated
    localparam int SUMMED = SIMD == 1 ? 3 : 1 + CHAIN + 2 + $clog2(CHAINS);
    localparam int PLACES = 1 << $clog2(SUMMED + 1 + 4);
    localparam int BEAT_BITS = BEATS > 1 ? $clog2(BEATS) : 1;
    localparam int IN_BITS = PE * SIMD * INPUT_BITS;

    (* rom_style = ROM_STYLE *) logic [PE*SIMD*WEIGHT_BITS-1:0] weights [WORDS];
    initial $readmemh(WEIGHTS, weights);

    // ---- flow control
    logic credit;
    logic [BEAT_BITS-1:0] beat;
    wire first = beat == '0;
    wire last = beat == BEAT_BITS'(BEATS - 1);
    assign in0_V_tready = !first || credit;
    wire issued = in0_V_tvalid && in0_V_tready;

    logic [SUMMED:1] valid, begins, ends;
    always_ff @(posedge ap_clk) begin
        if (!ap_rst_n) beat <= '0;
        else if (issued) beat <= last ? '0 : beat + 1'b1;
        valid <= ap_rst_n ? {valid[SUMMED-1:1], issued} : '0;
        begins <= {begins[SUMMED-1:1], first};
        ends <= {ends[SUMMED-1:1], last};
    end

    // ---- codes and weights
    logic [PE*SIMD*WEIGHT_BITS-1:0] word;
    logic [IN_BITS-1:0] taken;
    always_ff @(posedge ap_clk) taken <= in0_V_tdata[IN_BITS-1:0];
    if (WORDS > 1) begin : g_address
        logic [$clog2(WORDS)-1:0] address;
        always_ff @(posedge ap_clk) begin
            if (!ap_rst_n) address <= '0;
            else if (issued) address <= address == $bits(address)'(WORDS - 1) ? '0 : address + 1'b1;
            word <= weights[address];
        end
    end else begin : g_single
        always_ff @(posedge ap_clk) word <= weights[0];
    end

    // ---- a lane for each channel; some lanes share a control
    localparam int BUNCH = OUTPUT_BITS < 256 ? 256 / OUTPUT_BITS : 1;
    logic [PE-1:0][OUTPUT_BITS-1:0] sums;
    for (genvar bunch = 0; bunch < PE; bunch += BUNCH) begin : g_bunch
        (* keep = "true" *) logic adds, starts;
        if (BEATS > 1) begin : g_control
            always_ff @(posedge ap_clk) begin
                adds <= valid[SUMMED-1];
                starts <= begins[SUMMED-1];
            end
        end else begin : g_always
            assign {adds, starts} = '1;
        end
        for (genvar lane = bunch; lane < bunch + BUNCH && lane < PE; lane++) begin : g_lane
            logic [SIMD-1:0][X_BITS-1:0] x;
            logic [SIMD-1:0][WEIGHT_BITS-1:0] w;
            for (genvar tap = 0; tap < SIMD; tap++) begin : g_tap
                localparam int PLACE = tap * PE + lane;
                wire [INPUT_BITS-1:0] raw = taken[PLACE*INPUT_BITS +: INPUT_BITS];
                if (INPUT_SIGNED != 0) begin : g_signed
                    assign x[tap] = raw;
                end else begin : g_unsigned
                    assign x[tap] = {1'b0, raw};
                end
                assign w[tap] = word[PLACE*WEIGHT_BITS +: WEIGHT_BITS];
            end

            if (SIMD == 1) begin : g_one
                (* use_dsp = "yes" *) logic signed [OUTPUT_BITS-1:0] accumulator;
                logic signed [X_BITS-1:0] x_held;
                logic signed [WEIGHT_BITS-1:0] w_held;
                (* use_dsp = "yes" *) logic signed [X_BITS+WEIGHT_BITS-1:0] product;
                always_ff @(posedge ap_clk) begin
                    x_held <= x[0];
                    w_held <= w[0];
                    product <= x_held * w_held;
                    if (adds) accumulator <= OUTPUT_BITS'(product) + (starts ? '0 : accumulator);
                end
                assign sums[lane] = accumulator;
            end else begin : g_several
                logic [CHAINS-1:0][FIELD_BITS-1:0] terms;
                logic [TREE_BITS-1:0] tree_sum;
                logic left;
                for (genvar chain = 0; chain < CHAINS; chain++) begin : g_chain
                    localparam int LACKS = chain == CHAINS - 1 ? ABSENT : 0;
                    localparam int OWN = CHAIN - LACKS;
                    logic [OWN-1:0][X_BITS-1:0] codes;
                    logic [OWN-1:0][0:0][WEIGHT_BITS-1:0] own;
                    logic [FIELD_MOST-1:0] field;
                    logic carry;
                    for (genvar i = 0; i < OWN; i++) begin : g_place
                        delay_line #(.BITS(X_BITS + WEIGHT_BITS), .CYCLES(LACKS + i)) waits (
                            .ap_clk, .word({x[chain*CHAIN+i], w[chain*CHAIN+i]}),
                            .later({codes[i], own[i]})
                        );
                    end
                    packed_products #(
                        .COLUMNS(OWN), .ROWS(1), .WEIGHT_BITS(WEIGHT_BITS), .CODE_BITS(X_BITS),
                        .LANE_BITS(FIELD_MOST), .FIELD_BITS(FIELD_MOST)
                    ) products (
                        .ap_clk, .weights(own), .codes, .odd(1'b0), .fields(field), .carries(carry)
                    );
                    assign terms[chain] = field[FIELD_BITS-1:0];
                    wire unused = &{1'b0, field, carry};
                end
                adder_tree #(
                    .N(CHAINS), .BITS(FIELD_BITS), .LIMIT(OUTPUT_BITS), .SIGNED(1)
                ) tree (.ap_clk, .terms, .carries('0), .sum(tree_sum), .left);
                wire unused = &{1'b0, left};

                logic signed [OUTPUT_BITS-1:0] accumulator;
                wire signed [OUTPUT_BITS-1:0] sum = OUTPUT_BITS'($signed(tree_sum));
                always_ff @(posedge ap_clk)
                    if (adds) accumulator <= sum + (starts ? '0 : accumulator);
                assign sums[lane] = accumulator;
            end
        end
    end

    logic complete;
    always_ff @(posedge ap_clk) complete <= ap_rst_n && valid[SUMMED] && ends[SUMMED];

    credit_queue #(.BITS(PE * OUTPUT_BITS), .DEPTH(PLACES)) results (
        .ap_clk, .ap_rst_n, .credit, .spend(issued && first), .push(complete), .word(sums),
        .out0_V_tdata, .out0_V_tvalid, .out0_V_tready
    );
endmodule

`default_nettype wire
