// A matrix times every vector of a stream; its weights come from a memory outside.
//
// Per vector MW/SIMD beats of SIMD codes in, MH/PE beats of PE exact sums out, and
// (MW/SIMD) * (MH/PE) cycles. Row r of the matrix is lane r % PE of beat r / PE.
//
// A multiplier serves LANES rows, a chain of DSPs adds CASCADE columns (packed_products.sv); or each
// product is made in LUTs (lut_products.sv), with LANES and CASCADE 1. A tree adds the chains, an
// accumulator the MW/SIMD beats. Every chain adds the same bias, so that sums of chains are unsigned:
// the accumulator begins with what all of them add up to, negated. Sums are modulo 2**SUM_BITS, which
// holds every result.
//
// Nothing waits in the pipeline: the first beat of an output takes a credit for it, a free place in the
// queue at the end.
`default_nettype none

module matrix_vector_core #(
    parameter int    MW              = 1,
    parameter int    MH              = 1,
    parameter int    SIMD            = 1,
    parameter int    PE              = 1,
    parameter int    ACTIVATION_BITS = 8,
    parameter bit    SIGNED          = 1,  // of the activations
    parameter int    WEIGHT_BITS     = 8,
    parameter int    SUM_BITS        = 18,
    parameter int    LANES           = 2,
    parameter int    LANE_BITS       = 19,
    parameter int    FIELD_BITS      = 19,
    parameter int    CASCADE         = 1,
    parameter int    PORT_BITS       = 27,  // of the multiplier's wide port; DSP48E1: 25
    parameter bit    IN_LUTS         = 0,   // the products
    // these follow from the others
    parameter int    DEPTH           = MW / SIMD * (MH / PE),
    parameter int    ADDRESS_BITS    = DEPTH > 1 ? $clog2(DEPTH) : 1,
    parameter int    WORD_BITS       = PE * SIMD * WEIGHT_BITS
) (
    input  wire                                        ap_clk,
    input  wire                                        ap_rst_n,

    input  wire  [((SIMD*ACTIVATION_BITS+7)/8)*8-1:0]  in0_V_tdata,
    input  wire                                        in0_V_tvalid,
    output logic                                       in0_V_tready,

    output logic [((PE*SUM_BITS+7)/8)*8-1:0]           out0_V_tdata,
    output logic                                       out0_V_tvalid,
    input  wire                                        out0_V_tready,

    input  wire                                        loaded,   // whether the weights are there
    output logic [ADDRESS_BITS-1:0]                    address,  // of a word of weights,
    input  wire  [WORD_BITS-1:0]                       word      // which comes two cycles later
);
    if (SIMD < 1 || MW % SIMD != 0) $error("matrix_vector: SIMD=%0d does not divide MW=%0d", SIMD, MW);
    if (PE < 1 || MH % PE != 0) $error("matrix_vector: PE=%0d does not divide MH=%0d", PE, MH);
    if (LANES < 1 || LANES > PE) $error("matrix_vector: LANES=%0d, expected 1 to %0d", LANES, PE);
    if (IN_LUTS && (LANES != 1 || CASCADE != 1))
        $error("matrix_vector: LANES=%0d, CASCADE=%0d, expected 1 for products in LUTs", LANES, CASCADE);
    if (CASCADE < 1 || CASCADE > SIMD)
        $error("matrix_vector: CASCADE=%0d, expected 1 to %0d", CASCADE, SIMD);

    localparam int FOLDS = MW / SIMD;
    localparam int ROWS = MH / PE;
    localparam int PACKS = (PE + LANES - 1) / LANES;
    localparam int GROUPS = (SIMD + CASCADE - 1) / CASCADE;
    localparam int ABSENT = GROUPS * CASCADE - SIMD;  // first places that the last chain lacks
    localparam int CODE_BITS = ACTIVATION_BITS + 1;
    localparam int IN_BITS = SIMD * ACTIVATION_BITS;
    localparam bit OVERLAP = LANES > 1 && FIELD_BITS > LANE_BITS;
    // what is in a register in cycle i after its issue: word and beat 2, the chain's sum, the tree's
    localparam int OPERANDS = 2;
    localparam int SUMMED = OPERANDS + CASCADE + (IN_LUTS ? 1 : 2) + $clog2(GROUPS);
    localparam int PLACES = 1 << $clog2(SUMMED + 1 + 4);

    // ---- flow control
    logic offered, first, last, credit;
    logic [IN_BITS-1:0] beat_early, beat;
    wire advance = loaded && (!first || credit);
    wire issued = advance && offered;
    vector_buffer #(.BITS(IN_BITS), .LENGTH(FOLDS), .REPEATS(ROWS)) vectors (
        .ap_clk, .ap_rst_n, .in_data(in0_V_tdata[IN_BITS-1:0]), .in_valid(in0_V_tvalid),
        .in_ready(in0_V_tready), .advance, .offered, .first, .last, .beat(beat_early)
    );

    logic [SUMMED:1] valid, begins, ends;
    always_ff @(posedge ap_clk) begin
        valid <= ap_rst_n ? {valid[SUMMED-1:1], issued} : '0;
        begins <= {begins[SUMMED-1:1], first};
        ends <= {ends[SUMMED-1:1], last};
    end

    // ---- weights
    always_ff @(posedge ap_clk) begin
        if (!ap_rst_n) address <= '0;
        else if (issued) address <= address == ADDRESS_BITS'(DEPTH - 1) ? '0 : address + 1'b1;
        beat <= beat_early;
    end

    // ---- of each column, c cycles later where it is place c of its chain: code and weights
    logic [SIMD-1:0][CODE_BITS-1:0] codes;
    logic [SIMD-1:0][PE-1:0][WEIGHT_BITS-1:0] weights;
    logic [SIMD-1:0][PE-1:0] odd;  // products, not later
    for (genvar column = 0; column < SIMD; column++) begin : gen_column
        localparam int GROUP = column < (GROUPS - 1) * CASCADE ? column / CASCADE : GROUPS - 1;
        localparam int LATER = column - GROUP * CASCADE + (GROUP == GROUPS - 1 ? ABSENT : 0);
        logic [PE-1:0][WEIGHT_BITS-1:0] own;
        // products in LUTs prepare multiples of the code while the weights come
        wire [IN_BITS-1:0] from = IN_LUTS ? beat_early : beat;
        wire [ACTIVATION_BITS-1:0] code = from[column*ACTIVATION_BITS+:ACTIVATION_BITS];
        for (genvar r = 0; r < PE; r++) begin : gen_row
            assign own[r] = word[(r*SIMD+column)*WEIGHT_BITS+:WEIGHT_BITS];
            assign odd[column][r] = own[r][0] && code[0];
        end
        logic [ACTIVATION_BITS-1:0] code_then;
        delay_line #(.BITS(ACTIVATION_BITS + PE * WEIGHT_BITS), .CYCLES(LATER)) waits (
            .ap_clk, .word({code, own}), .later({code_then, weights[column]})
        );
        assign codes[column] = {SIGNED && code_then[ACTIVATION_BITS-1], code_then};
    end

    // ---- the chains
    logic [PE-1:0][GROUPS-1:0][FIELD_BITS-1:0] terms;
    logic [PE-1:0][GROUPS-1:0] carries;
    if (IN_LUTS) begin : gen_luts
        for (genvar g = 0; g < GROUPS; g++) begin : gen_group
            logic [PE-1:0][FIELD_BITS-1:0] fields;
            lut_products #(
                .ROWS(PE), .WEIGHT_BITS(WEIGHT_BITS), .CODE_BITS(CODE_BITS), .FIELD_BITS(FIELD_BITS)
            ) of_column (
                .ap_clk, .weights(weights[g]), .code(codes[g]), .products(fields)
            );
            for (genvar r = 0; r < PE; r++) begin : gen_row
                assign terms[r][g] = fields[r];
                assign carries[r][g] = 1'b0;
            end
        end
        wire unused = &{1'b0, odd};
    end else for (genvar q = 0; q < PACKS; q++) begin : gen_pack
        localparam int FROM = q * LANES;
        localparam int OWN = FROM + LANES <= PE ? LANES : PE - FROM;
        for (genvar g = 0; g < GROUPS; g++) begin : gen_group
            localparam int WIDE = g < GROUPS - 1 ? CASCADE : CASCADE - ABSENT;
            logic [WIDE-1:0][OWN-1:0][WEIGHT_BITS-1:0] own_weights;
            logic [OWN-1:0] own_odd, own_carries;
            logic [OWN-1:0][FIELD_BITS-1:0] fields;
            always_comb begin
                own_odd = '0;
                for (int c = 0; c < WIDE; c++) begin
                    own_weights[c] = weights[g*CASCADE+c][FROM+:OWN];
                    own_odd ^= odd[g*CASCADE+c][FROM+:OWN];
                end
            end
            packed_products #(
                .COLUMNS(WIDE), .ROWS(OWN), .WEIGHT_BITS(WEIGHT_BITS), .CODE_BITS(CODE_BITS),
                .LANE_BITS(LANE_BITS), .FIELD_BITS(FIELD_BITS), .PORT_BITS(PORT_BITS),
                .LATE(CASCADE - WIDE)
            ) products (
                .ap_clk, .weights(own_weights), .codes(codes[g*CASCADE+:WIDE]), .odd(own_odd),
                .fields, .carries(own_carries)
            );
            for (genvar k = 0; k < OWN; k++) begin : gen_row
                assign terms[FROM+k][g] = fields[k];
                assign carries[FROM+k][g] = own_carries[k];
            end
        end
    end

    // ---- the sum of the chains, then of the beats
    localparam int BUNCH = SUM_BITS < 256 ? 256 / SUM_BITS : 1;  // rows with a control of their own
    localparam int FIELD_MOST = FIELD_BITS < SUM_BITS ? FIELD_BITS : SUM_BITS;
    localparam int TREE_MOST = FIELD_MOST + $clog2(GROUPS);
    localparam int TREE_BITS = TREE_MOST < SUM_BITS ? TREE_MOST : SUM_BITS;
    logic [PE-1:0][SUM_BITS-1:0] sums;
    for (genvar bunch = 0; bunch < PE; bunch += BUNCH) begin : gen_bunch
        (* keep = "true" *) logic adds, starts;
        if (FOLDS > 1) begin : gen_control
            always_ff @(posedge ap_clk) begin
                adds <= valid[SUMMED-1];
                starts <= begins[SUMMED-1];
            end
        end else begin : gen_always
            assign {adds, starts} = '1;
        end
        for (genvar r = bunch; r < bunch + BUNCH && r < PE; r++) begin : gen_row
            localparam bit CARRIED = OVERLAP && r % LANES > 0;
            // on its multipliers
            localparam bit ALONE = LANES == 1 || (r % LANES == 0 && r == PE - 1);
            // the bias of all chains and beats, and with each carry one
            localparam longint BIAS = ALONE ? 0 : (64'sd1 << (FIELD_BITS - 1)) + 64'(CARRIED);
            localparam longint START = -(64'(FOLDS) * 64'(GROUPS) * BIAS);
            logic [GROUPS-1:0][FIELD_MOST-1:0] own;
            logic [TREE_BITS-1:0] sum;
            logic left;
            wire [SUM_BITS-1:0] wide = SUM_BITS'({{SUM_BITS{ALONE && sum[TREE_BITS-1]}}, sum});
            for (genvar g = 0; g < GROUPS; g++) begin : gen_own
                assign own[g] = terms[r][g][FIELD_MOST-1:0];
            end
            adder_tree #(
                .N(GROUPS), .BITS(FIELD_MOST), .LIMIT(SUM_BITS), .SIGNED(ALONE), .CARRIED(CARRIED)
            ) tree (.ap_clk, .terms(own), .carries(carries[r]), .sum, .left);
            wire [SUM_BITS-1:0] so_far = starts ? SUM_BITS'(START) : sums[r];
            if (CARRIED) begin : gen_carry
                // a bit below, so that the carry goes into the same chain
                logic below;
                always_ff @(posedge ap_clk)
                    if (adds) {sums[r], below} <= {wide, 1'b1} + {so_far, left};
                wire unused = &{1'b0, below};
            end else begin : gen_plain
                always_ff @(posedge ap_clk) if (adds) sums[r] <= wide + so_far;
                wire unused = &{1'b0, left};
            end
        end
    end
    wire unused_fields = &{1'b0, terms};

    logic complete;
    always_ff @(posedge ap_clk) complete <= ap_rst_n && valid[SUMMED] && ends[SUMMED];

    credit_queue #(.BITS(PE * SUM_BITS), .DEPTH(PLACES)) results (
        .ap_clk, .ap_rst_n, .credit, .spend(issued && first), .push(complete), .word(sums),
        .out0_V_tdata, .out0_V_tvalid, .out0_V_tready
    );
endmodule

`default_nettype wire
