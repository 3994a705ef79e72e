// Windows of a stream of maps without a border: each pixel's KERNEL_H x KERNEL_W taps, row by row.
//
// A pixel is FOLDS words of SIMD channels. Serially a beat is a word: for each tap its FOLDS words,
// or with DEPTHWISE for each fold its taps. With PARALLEL a beat holds all taps of SIMD channels,
// and a window's beats are its folds.
//
// What makes the words does not wait: it starts one only with a credit for a place in the queue
// behind it. The output's registers are a serial word or a whole window; they move in groups.
`default_nettype none

module sliding_window #(
    parameter int SIMD = 1,
    parameter int BITS = 8,
    parameter int FOLDS = 1,
    parameter int HEIGHT = 1,
    parameter int WIDTH = 1,
    parameter int KERNEL_H = 1,
    parameter int KERNEL_W = 1,
    parameter int STRIDE_H = 1,
    parameter int STRIDE_W = 1,
    parameter bit DEPTHWISE = 0,
    parameter bit PARALLEL = 0,
    parameter int DEPTH = 8,           // words of the ring of the serial form
    parameter string STYLE = "auto",   // of the ring or the lines: ram_style
    parameter int LANES_OUT = PARALLEL ? KERNEL_H * KERNEL_W * SIMD : SIMD
) (
    input  wire                                  ap_clk,
    input  wire                                  ap_rst_n,

    input  wire  [((SIMD*BITS+7)/8)*8-1:0]       in0_V_tdata,
    input  wire                                  in0_V_tvalid,
    output logic                                 in0_V_tready,

    output logic [((LANES_OUT*BITS+7)/8)*8-1:0]  out0_V_tdata,
    output logic                                 out0_V_tvalid,
    input  wire                                  out0_V_tready
);
    if (SIMD < 1 || BITS < 1 || FOLDS < 1)
        $error("sliding_window: SIMD=%0d, BITS=%0d, FOLDS=%0d, expected 1 or more", SIMD, BITS,
               FOLDS);
    if (KERNEL_H < 1 || KERNEL_W < 1 || KERNEL_H > HEIGHT || KERNEL_W > WIDTH)
        $error("sliding_window: a kernel of %0d x %0d on a map of %0d x %0d", KERNEL_H, KERNEL_W,
               HEIGHT, WIDTH);
    if (STRIDE_H < 1 || STRIDE_W < 1)
        $error("sliding_window: strides of %0d and %0d, expected 1 or more", STRIDE_H, STRIDE_W);

    localparam int WORD = SIMD * BITS;
    localparam int ROWS = PARALLEL ? KERNEL_H : 1;
    localparam int TAPS = PARALLEL ? KERNEL_W : 1;
    localparam int COLUMN = ROWS * WORD;
    // bits of a column in a group: at most 200 registers move together, and a memory of older taps
    localparam int GROUP = TAPS < 200 ? 200 / TAPS : 1;
    localparam int GROUPS = (COLUMN + GROUP - 1) / GROUP;

    logic credit, spend, push, complete, offered, complete_head, taken;
    logic [COLUMN-1:0] column, head;

    if (PARALLEL) begin : g_columns
        window_columns #(
            .BITS(WORD), .FOLDS(FOLDS), .HEIGHT(HEIGHT), .WIDTH(WIDTH), .KERNEL_H(KERNEL_H),
            .KERNEL_W(KERNEL_W), .STRIDE_H(STRIDE_H), .STRIDE_W(STRIDE_W), .STYLE(STYLE)
        ) columns (
            .ap_clk, .ap_rst_n,
            .in_word(in0_V_tdata[WORD-1:0]), .in_valid(in0_V_tvalid), .in_ready(in0_V_tready),
            .credit, .spend, .push, .complete, .column
        );
    end else begin : g_ring
        assign complete = 1'b1;
        window_ring #(
            .BITS(WORD), .FOLDS(FOLDS), .HEIGHT(HEIGHT), .WIDTH(WIDTH), .KERNEL_H(KERNEL_H),
            .KERNEL_W(KERNEL_W), .STRIDE_H(STRIDE_H), .STRIDE_W(STRIDE_W), .DEPTHWISE(DEPTHWISE),
            .DEPTH(DEPTH), .STYLE(STYLE)
        ) words (
            .ap_clk, .ap_rst_n,
            .in_word(in0_V_tdata[WORD-1:0]), .in_valid(in0_V_tvalid), .in_ready(in0_V_tready),
            .credit, .spend, .push, .word(column)
        );
    end

    window_queue #(.BITS(COLUMN + 1)) queue (
        .ap_clk, .ap_rst_n, .credit, .spend, .push, .word({complete, column}),
        .offered, .head({complete_head, head}), .take(taken)
    );

    wire [GROUPS-1:0] valid, step;
    wire [TAPS-1:0][COLUMN-1:0] window;
    assign out0_V_tvalid = valid[0];
    assign taken = step[0];
    for (genvar group = 0; group < GROUPS; group++) begin : g_group
        localparam int START = group * GROUP;
        localparam int WIDE = START + GROUP > COLUMN ? COLUMN - START : GROUP;
        wire [TAPS*WIDE-1:0] taps;
        window_taps #(.BITS(WIDE), .TAPS(TAPS), .FOLDS(FOLDS)) registers (
            .ap_clk, .ap_rst_n, .offered, .complete(complete_head), .column(head[START +: WIDE]),
            .taps, .valid(valid[group]), .ready(out0_V_tready), .step(step[group])
        );
        for (genvar tap = 0; tap < TAPS; tap++) begin : g_tap
            assign window[tap][START +: WIDE] = taps[tap*WIDE +: WIDE];
        end
    end
    for (genvar row = 0; row < ROWS; row++) begin : g_row
        for (genvar tap = 0; tap < TAPS; tap++) begin : g_tap
            assign out0_V_tdata[(row*TAPS + tap)*WORD +: WORD] = window[tap][row*WORD +: WORD];
        end
    end

    // bits of the port above the word
    if ((LANES_OUT * BITS) % 8 != 0) begin : g_above
        assign out0_V_tdata[((LANES_OUT*BITS+7)/8)*8-1:LANES_OUT*BITS] = '0;
    end
    wire unused = &{1'b0, in0_V_tdata};
endmodule

`default_nettype wire
