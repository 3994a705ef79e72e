// A border of one code around each map of a stream.
//
// BEATS beats of SIMD channels a pixel. Throughput one output beat a cycle. The border waits for no
// input: what is above the next map's first pixel comes out before that arrives.
`default_nettype none

module pad_with_code #(
    parameter int SIMD = 1,
    parameter int BITS = 8,
    parameter int BEATS = 1,
    parameter int HEIGHT = 1,  // of the input
    parameter int WIDTH = 1,
    parameter int TOP = 0,
    parameter int LEFT = 0,
    parameter int BOTTOM = 0,
    parameter int RIGHT = 0,
    parameter int CODE = 0
) (
    input  wire                             ap_clk,
    input  wire                             ap_rst_n,

    input  wire  [((SIMD*BITS+7)/8)*8-1:0]  in0_V_tdata,
    input  wire                             in0_V_tvalid,
    output logic                            in0_V_tready,

    output logic [((SIMD*BITS+7)/8)*8-1:0]  out0_V_tdata,
    output logic                            out0_V_tvalid,
    input  wire                             out0_V_tready
);
    if (SIMD < 1 || BEATS < 1)
        $error("pad_with_code: SIMD=%0d, BEATS=%0d, expected 1 or more", SIMD, BEATS);
    if (HEIGHT < 1 || WIDTH < 1) $error("pad_with_code: a map of %0d x %0d", HEIGHT, WIDTH);
    if (TOP < 0 || LEFT < 0 || BOTTOM < 0 || RIGHT < 0) $error("pad_with_code: a negative border");

    localparam int PORT_BITS = ((SIMD * BITS + 7) / 8) * 8;
    localparam int ROWS = TOP + HEIGHT + BOTTOM;
    localparam int COLUMNS = LEFT + WIDTH + RIGHT;
    localparam int Y_BITS = $clog2(ROWS + 1);
    localparam int X_BITS = $clog2(COLUMNS + 1);
    localparam int BEAT_BITS = $clog2(BEATS + 1);

    logic [Y_BITS-1:0] y;
    logic [X_BITS-1:0] x;
    logic [BEAT_BITS-1:0] beat;
    logic step;

    wire in_map = int'(y) >= TOP && int'(y) < TOP + HEIGHT
               && int'(x) >= LEFT && int'(x) < LEFT + WIDTH;
    wire valid = in0_V_tvalid || !in_map;
    wire last_beat = beat == BEAT_BITS'(BEATS - 1);
    wire last_x = x == X_BITS'(COLUMNS - 1);
    wire last_y = y == Y_BITS'(ROWS - 1);

    assign in0_V_tready = step && in_map;

    always_ff @(posedge ap_clk) begin
        if (!ap_rst_n) begin
            y <= '0;
            x <= '0;
            beat <= '0;
        end else if (step && valid) begin
            beat <= last_beat ? '0 : beat + 1'b1;
            if (last_beat) x <= last_x ? '0 : x + 1'b1;
            if (last_beat && last_x) y <= last_y ? '0 : y + 1'b1;
        end
    end

    wire [SIMD*BITS-1:0] border = {SIMD{BITS'(CODE)}};

    stream_register #(.BITS(SIMD*BITS)) register (
        .ap_clk, .ap_rst_n,
        .in0_V_tdata(in_map ? in0_V_tdata : PORT_BITS'(border)), .in0_V_tvalid(valid),
        .in0_V_tready(step),
        .out0_V_tdata, .out0_V_tvalid, .out0_V_tready
    );
endmodule

`default_nettype wire
