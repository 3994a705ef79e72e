// The largest of TAPS consecutive beats, lane by lane.
//
// The input is a depthwise window: for each group of PE channels all taps, one beat each.
// Throughput one input beat a cycle.
`default_nettype none

module max_pool #(
    parameter int PE = 1,
    parameter int BITS = 8,
    parameter int SIGNED = 1,
    parameter int TAPS = 4
) (
    input  wire                           ap_clk,
    input  wire                           ap_rst_n,

    input  wire  [((PE*BITS+7)/8)*8-1:0]  in0_V_tdata,
    input  wire                           in0_V_tvalid,
    output logic                          in0_V_tready,

    output logic [((PE*BITS+7)/8)*8-1:0]  out0_V_tdata,
    output logic                          out0_V_tvalid,
    input  wire                           out0_V_tready
);
    if (PE < 1 || TAPS < 1) $error("max_pool: PE=%0d, TAPS=%0d, expected 1 or more", PE, TAPS);

    localparam int TAP_BITS = TAPS > 1 ? $clog2(TAPS) : 1;

    logic [TAP_BITS-1:0] tap;
    logic free;  // the output register takes a beat
    logic [PE*BITS-1:0] best, largest;

    wire first = tap == '0;
    wire last = tap == TAP_BITS'(TAPS - 1);

    assign in0_V_tready = free || !last;

    always_ff @(posedge ap_clk) begin
        if (!ap_rst_n) tap <= '0;
        else if (in0_V_tvalid && in0_V_tready) tap <= last ? '0 : tap + 1'b1;
    end

    // with its upper bit inverted a signed code orders like an unsigned one
    localparam logic [BITS-1:0] FLIP = BITS'(SIGNED != 0 ? 1 : 0) << (BITS - 1);
    for (genvar lane = 0; lane < PE; lane++) begin : g_lane
        wire [BITS-1:0] x = in0_V_tdata[lane*BITS +: BITS];
        wire [BITS-1:0] held = best[lane*BITS +: BITS];
        assign largest[lane*BITS +: BITS] = first || (x ^ FLIP) > (held ^ FLIP) ? x : held;
    end

    always_ff @(posedge ap_clk) if (in0_V_tvalid && in0_V_tready) best <= largest;

    stream_register #(.BITS(PE*BITS)) register (
        .ap_clk, .ap_rst_n,
        .in0_V_tdata(((PE*BITS+7)/8*8)'(largest)), .in0_V_tvalid(in0_V_tvalid && last),
        .in0_V_tready(free),
        .out0_V_tdata, .out0_V_tvalid, .out0_V_tready
    );
endmodule

`default_nettype wire
