// The dot products of COLUMNS codes with ROWS rows of weights, in a chain of DSPs, all rows at once.
//
// A DSP48E2 multiplies 27 by 18 bits, so that the weights of one column share a multiplier: side by
// side, LANE_BITS apart. What is below a weight's sign is concatenated, and the signs are subtracted
// by the pre-adder. Column c is one cycle behind column c - 1 and added to it through the cascade.
//
// Where there are several rows, the first DSP adds 2**(FIELD_BITS-1) to each, more than the largest
// magnitude that a row's sum has. So every row is from 1 to 2**FIELD_BITS - 1, none borrows from the row
// above it, and a row is FIELD_BITS wires. A single row gets no bias and is signed.
//
// Where FIELD_BITS is LANE_BITS + 1 the rows overlap by a bit. The lowest bit of a row's sum is known:
// `odd`, the parity of its products. What is there beside it, is the top bit of the row below, which
// therefore went into this row as a carry: fields[k] is one too large where the top bit of
// fields[k-1] is set. So, of a row above the lowest one, the sum is
// fields + carries - 1 - 2**(FIELD_BITS-1), carries being the inverse of that bit.
//
// Latency COLUMNS + 2 cycles from the codes of column 0.
`default_nettype none

module packed_products #(
    parameter int COLUMNS     = 1,
    parameter int ROWS        = 1,
    parameter int WEIGHT_BITS = 8,
    parameter int CODE_BITS   = 9,   // signed
    parameter int LANE_BITS   = 19,
    parameter int FIELD_BITS  = 19,
    parameter int PORT_BITS   = 27,  // of the multiplier's wide port; DSP48E1: 25
    parameter int LATE        = 0    // cycles by which column 0 comes after `odd`
) (
    input  wire                                              ap_clk,
    input  wire  [COLUMNS-1:0][ROWS-1:0][WEIGHT_BITS-1:0]    weights,
    input  wire  [COLUMNS-1:0][CODE_BITS-1:0]                codes,
    input  wire  [ROWS-1:0]                                  odd,
    output logic [ROWS-1:0][FIELD_BITS-1:0]                  fields,
    output logic [ROWS-1:0]                                  carries
);
    localparam int PRODUCT_BITS = 48;
    localparam bit OVERLAP = ROWS > 1 && FIELD_BITS > LANE_BITS;
    if (ROWS > 1 && FIELD_BITS > LANE_BITS + 1)
        $error("packed_products: FIELD_BITS=%0d, expected at most %0d", FIELD_BITS, LANE_BITS + 1);
    if (WEIGHT_BITS < 2 || CODE_BITS > 18)
        $error("packed_products: %0d x %0d bits do not fit a DSP48E2", WEIGHT_BITS, CODE_BITS);
    if (WEIGHT_BITS + (ROWS - 1) * LANE_BITS > PORT_BITS)
        $error("packed_products: %0d rows, %0d bits apart, expected at most %0d in all", ROWS,
               LANE_BITS, PORT_BITS);

    logic signed [PRODUCT_BITS-1:0] bias;
    always_comb begin
        bias = '0;
        for (int k = 0; k < ROWS && ROWS > 1; k++) bias += 48'sd1 << (k * LANE_BITS + FIELD_BITS - 1);
    end

    logic [COLUMNS-1:0][PRODUCT_BITS-1:0] sums;
    for (genvar c = 0; c < COLUMNS; c++) begin : gen_column
        logic signed [PORT_BITS-1:0] low_bits, signs, packed_weights;
        logic signed [CODE_BITS-1:0] code_held;
        logic signed [PRODUCT_BITS-1:0] m, p;

        always_comb begin
            low_bits = '0;
            signs = '0;
            for (int k = 0; k < ROWS; k++) begin
                low_bits[k*LANE_BITS+:WEIGHT_BITS-1] = weights[c][k][WEIGHT_BITS-2:0];
                signs[k*LANE_BITS+WEIGHT_BITS-1] = weights[c][k][WEIGHT_BITS-1];
            end
        end

        always_ff @(posedge ap_clk) begin
            packed_weights <= low_bits - signs;
            code_held <= codes[c];
            m <= packed_weights * code_held;
        end
        if (c == 0) begin : gen_start
            always_ff @(posedge ap_clk) p <= m + bias;
        end else begin : gen_add
            always_ff @(posedge ap_clk) p <= signed'(sums[c-1]) + m;
        end
        assign sums[c] = p;
    end

    wire [PRODUCT_BITS-1:0] total = sums[COLUMNS-1];
    if (OVERLAP) begin : gen_overlap
        logic [ROWS-1:0] parity;
        delay_line #(.BITS(ROWS), .CYCLES(COLUMNS + 2 + LATE)) waits (
            .ap_clk, .word(odd), .later(parity)
        );
        for (genvar k = 0; k < ROWS; k++) begin : gen_row
            wire [LANE_BITS-1:0] low = total[k*LANE_BITS+:LANE_BITS];
            wire top;
            if (k < ROWS - 1) begin : gen_inner
                assign top = total[(k+1)*LANE_BITS] ^ parity[k+1];
            end else begin : gen_upper
                assign top = total[(k+1)*LANE_BITS];
            end
            assign fields[k] = {top, low};
            if (k == 0) begin : gen_lowest
                assign carries[k] = 1'b0;
            end else begin : gen_above
                assign carries[k] = !gen_row[k-1].top;
            end
        end
        wire unused = &{1'b0, parity[0]};
    end else begin : gen_apart
        for (genvar k = 0; k < ROWS; k++) begin : gen_row
            assign fields[k] = total[k*LANE_BITS+:FIELD_BITS];
            assign carries[k] = 1'b0;
        end
        wire unused = &{1'b0, odd};
    end
    wire unused_top = &{1'b0, total};
endmodule

`default_nettype wire
