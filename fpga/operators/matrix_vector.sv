// A matrix, its weights in a ROM, times every vector of a stream.
//
// Per vector MW/SIMD beats of SIMD codes in, MH/PE beats of PE exact sums out, and
// (MW/SIMD) * (MH/PE) cycles. Row r of the matrix is lane r % PE of beat r / PE.
//
// A DSP48E2 multiplies 27 by 18 bits, so that LANES weights of one column share a multiplier: side by
// side, LANE_BITS apart. What is below a weight's sign is concatenated, and the signs are subtracted
// by the pre-adder. Two columns are added inside the DSPs, through the cascade; then the lanes are
// taken apart. A lane that is negative has borrowed one from the lane above: its sign is given back.
// LANE_BITS holds the sum of two products, or of one where CASCADE is 0 (fpga.packing chooses them).
`default_nettype none

module matrix_vector #(
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
    parameter bit    CASCADE         = 1,
    parameter int    PORT_BITS       = 27,  // of the multiplier's wide port; DSP48E1: 25
    parameter string WEIGHTS         = "",
    parameter string STYLE           = "auto"
) (
    input  wire                                        ap_clk,
    input  wire                                        ap_rst_n,

    input  wire  [((SIMD*ACTIVATION_BITS+7)/8)*8-1:0]  in0_V_tdata,
    input  wire                                        in0_V_tvalid,
    output logic                                       in0_V_tready,

    output logic [((PE*SUM_BITS+7)/8)*8-1:0]           out0_V_tdata,
    output logic                                       out0_V_tvalid,
    input  wire                                        out0_V_tready
);
    localparam int PRODUCT_BITS = 48;

    if (SIMD < 1 || MW % SIMD != 0) $error("matrix_vector: SIMD=%0d does not divide MW=%0d", SIMD, MW);
    if (PE < 1 || MH % PE != 0) $error("matrix_vector: PE=%0d does not divide MH=%0d", PE, MH);
    if (WEIGHT_BITS < 2 || ACTIVATION_BITS > 17)
        $error("matrix_vector: %0d x %0d bits do not fit a DSP48E2", WEIGHT_BITS, ACTIVATION_BITS);
    if (WEIGHT_BITS + (LANES - 1) * LANE_BITS > PORT_BITS)
        $error("matrix_vector: %0d lanes of %0d bits, expected at most %0d in all", LANES, LANE_BITS,
               PORT_BITS);

    localparam int FOLDS = MW / SIMD;
    localparam int ROWS = MH / PE;
    localparam int PACKS = (PE + LANES - 1) / LANES;
    localparam int STRIDE = CASCADE ? 2 : 1;  // columns that the DSPs add up
    localparam int GROUPS = (SIMD + STRIDE - 1) / STRIDE;
    localparam int IN_BITS = SIMD * ACTIVATION_BITS;
    localparam int WORD_BITS = PE * SIMD * WEIGHT_BITS;
    localparam int DEPTH = FOLDS * ROWS;
    localparam int ADDRESS_BITS = DEPTH > 1 ? $clog2(DEPTH) : 1;
    // operands 1, pre-adder 1, product 1, sum 1 and 1 more behind the cascade, lanes 1, tree
    localparam int OPERANDS = 2;  // cycles from the issue to word and beat
    localparam int SUMMED = OPERANDS + 5 + int'(CASCADE) + $clog2(GROUPS);

    // ---- flow control: the whole pipeline moves while the output register takes a beat
    wire en;

    logic offered, first, last;
    logic [IN_BITS-1:0] beat_early, beat;
    vector_buffer #(.BITS(IN_BITS), .LENGTH(FOLDS), .REPEATS(ROWS)) vectors (
        .ap_clk, .ap_rst_n, .in_data(in0_V_tdata[IN_BITS-1:0]), .in_valid(in0_V_tvalid),
        .in_ready(in0_V_tready), .advance(en), .offered, .first, .last, .beat(beat_early)
    );

    logic [SUMMED:1] valid, begins, ends;
    always_ff @(posedge ap_clk) begin
        if (!ap_rst_n) valid <= '0;
        else if (en) valid <= {valid[SUMMED-1:1], offered};
        if (en) begin
            begins <= {begins[SUMMED-1:1], first};
            ends <= {ends[SUMMED-1:1], last};
        end
    end

    // ---- weights
    (* rom_style = STYLE *) logic [WORD_BITS-1:0] rom[DEPTH];
    initial $readmemh(WEIGHTS, rom);
    logic [ADDRESS_BITS-1:0] address;
    logic [WORD_BITS-1:0] word_early, word;
    always_ff @(posedge ap_clk) begin
        if (!ap_rst_n) address <= '0;
        else if (en && offered)
            address <= address == ADDRESS_BITS'(DEPTH - 1) ? '0 : address + 1'b1;
        if (en) begin
            word_early <= rom[address];
            word <= word_early;
            beat <= beat_early;
        end
    end

    // ---- products of the columns, LANES rows at a time
    logic [PE-1:0][GROUPS-1:0][SUM_BITS-1:0] terms;

    for (genvar q = 0; q < PACKS; q++) begin : gen_pack
        for (genvar g = 0; g < GROUPS; g++) begin : gen_group
            logic signed [PRODUCT_BITS-1:0] total;
            for (genvar c = 0; c < STRIDE; c++) begin : gen_column
                localparam int COLUMN = g * STRIDE + c;
                logic signed [PRODUCT_BITS-1:0] p;
                if (COLUMN < SIMD) begin : gen_product
                    logic signed [PORT_BITS-1:0] low_bits, signs, low_held, signs_held, packed_weights;
                    logic signed [ACTIVATION_BITS:0] a, a_held, a_late;
                    logic signed [PRODUCT_BITS-1:0] m;

                    wire [ACTIVATION_BITS-1:0] code = beat[COLUMN*ACTIVATION_BITS+:ACTIVATION_BITS];
                    assign a = {SIGNED && code[ACTIVATION_BITS-1], code};

                    always_comb begin
                        low_bits = '0;
                        signs = '0;
                        for (int k = 0; k < LANES; k++) begin
                            if (q * LANES + k < PE) begin
                                low_bits[k*LANE_BITS+:WEIGHT_BITS-1] =
                                    word[((q*LANES+k)*SIMD+COLUMN)*WEIGHT_BITS+:WEIGHT_BITS-1];
                                signs[k*LANE_BITS+WEIGHT_BITS-1] =
                                    word[((q*LANES+k)*SIMD+COLUMN)*WEIGHT_BITS+WEIGHT_BITS-1];
                            end
                        end
                    end

                    // the second column of a cascade is one cycle behind the first
                    if (c == 0) begin : gen_direct
                        always_ff @(posedge ap_clk)
                            if (en) {low_held, signs_held, a_held} <= {low_bits, signs, a};
                    end else begin : gen_behind
                        logic signed [PORT_BITS-1:0] low_first, signs_first;
                        logic signed [ACTIVATION_BITS:0] a_first;
                        always_ff @(posedge ap_clk) begin
                            if (en) begin
                                {low_first, signs_first, a_first} <= {low_bits, signs, a};
                                {low_held, signs_held, a_held} <= {low_first, signs_first, a_first};
                            end
                        end
                    end

                    always_ff @(posedge ap_clk) begin
                        if (en) begin
                            packed_weights <= low_held - signs_held;
                            a_late <= a_held;
                            m <= packed_weights * a_late;
                        end
                    end

                    if (c == 0) begin : gen_start
                        always_ff @(posedge ap_clk) if (en) p <= m;
                    end else begin : gen_add
                        always_ff @(posedge ap_clk) if (en) p <= gen_column[c-1].p + m;
                    end
                end else begin : gen_missing
                    always_ff @(posedge ap_clk) if (en) p <= gen_column[c-1].p;
                end
            end
            assign total = gen_column[STRIDE-1].p;

            // ---- the lanes, each with the borrow of the one below given back
            for (genvar k = 0; k < LANES; k++) begin : gen_lane
                if (q * LANES + k < PE) begin : gen_row
                    logic signed [PRODUCT_BITS-k*LANE_BITS-1:0] above;
                    logic signed [SUM_BITS-1:0] lane, held;
                    assign above = total[PRODUCT_BITS-1:k*LANE_BITS];
                    if (k < LANES - 1) assign lane = SUM_BITS'($signed(above[LANE_BITS-1:0]));
                    else assign lane = SUM_BITS'(above);
                    always_ff @(posedge ap_clk)
                        if (en) held <= lane + SUM_BITS'(k > 0 && total[(k>0?k*LANE_BITS:1)-1]);
                    assign terms[q*LANES+k][g] = held;
                end
            end
        end
    end

    // ---- the sum of the columns, then of the folds
    logic [PE-1:0][SUM_BITS-1:0] sums;
    for (genvar r = 0; r < PE; r++) begin : gen_sum
        logic [SUM_BITS-1:0] sum;
        adder_tree #(.N(GROUPS), .BITS(SUM_BITS)) tree (.ap_clk, .en, .terms(terms[r]), .sum);
        always_ff @(posedge ap_clk)
            if (en && valid[SUMMED]) sums[r] <= begins[SUMMED] ? sum : sums[r] + sum;
    end

    logic complete;
    always_ff @(posedge ap_clk) begin
        if (!ap_rst_n) complete <= 1'b0;
        else if (en) complete <= valid[SUMMED] && ends[SUMMED];
    end

    stream_register #(.BITS(PE * SUM_BITS)) out (
        .ap_clk, .ap_rst_n,
        .in0_V_tdata(((PE*SUM_BITS+7)/8*8)'(sums)), .in0_V_tvalid(complete), .in0_V_tready(en),
        .out0_V_tdata, .out0_V_tvalid, .out0_V_tready
    );
endmodule

`default_nettype wire
