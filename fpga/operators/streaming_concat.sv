// Several streams to one, pixel by pixel: all beats of input 0's pixel, then those of input 1's ...
//
// Input i is bit i of the vectors and word i of in_V_tdata; BEATS holds the beats of its pixel in
// 16 bits. Throughput one beat a cycle.
`default_nettype none

module streaming_concat #(
    parameter int INPUTS = 2,
    parameter int BITS = 8,
    parameter     BEATS = 32'h0001_0001
) (
    input  wire                               ap_clk,
    input  wire                               ap_rst_n,

    input  wire  [INPUTS*((BITS+7)/8)*8-1:0]  in_V_tdata,
    input  wire  [INPUTS-1:0]                 in_V_tvalid,
    output logic [INPUTS-1:0]                 in_V_tready,

    output logic [((BITS+7)/8)*8-1:0]         out0_V_tdata,
    output logic                              out0_V_tvalid,
    input  wire                               out0_V_tready
);
    if (INPUTS < 2) $error("streaming_concat: INPUTS=%0d, expected 2 or more", INPUTS);
    localparam logic [16*INPUTS-1:0] EACH = (16*INPUTS)'(BEATS);
    for (genvar i = 0; i < INPUTS; i++) begin : g_check
        if (EACH[16*i +: 16] == 0) $error("streaming_concat: input %0d has no beats", i);
    end

    localparam int PORT_BITS = ((BITS + 7) / 8) * 8;
    localparam int TURN_BITS = $clog2(INPUTS);

    logic [TURN_BITS-1:0] turn;
    logic [15:0] beat;
    logic step;

    wire valid = in_V_tvalid[turn];
    wire last = beat == EACH[16*turn +: 16] - 16'd1;

    always_comb begin
        in_V_tready = '0;
        in_V_tready[turn] = step;
    end

    always_ff @(posedge ap_clk) begin
        if (!ap_rst_n) begin
            turn <= '0;
            beat <= '0;
        end else if (step && valid) begin
            beat <= last ? '0 : beat + 1'b1;
            if (last) turn <= turn == TURN_BITS'(INPUTS - 1) ? '0 : turn + 1'b1;
        end
    end

    stream_register #(.BITS(BITS)) register (
        .ap_clk, .ap_rst_n,
        .in0_V_tdata(in_V_tdata[PORT_BITS*turn +: PORT_BITS]), .in0_V_tvalid(valid),
        .in0_V_tready(step),
        .out0_V_tdata, .out0_V_tvalid, .out0_V_tready
    );
endmodule

`default_nettype wire
