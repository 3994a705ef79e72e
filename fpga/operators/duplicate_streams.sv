// One stream to several: every output gets every beat, when it is ready and not later.
//
// A beat is offered to all outputs at once and kept until the last has taken it; an output that
// waits does not hold the others back within the beat. Output i is bit i of the vectors and word i
// of out_V_tdata. Throughput one beat a cycle.
`default_nettype none

module duplicate_streams #(
    parameter int OUTPUTS = 2,
    parameter int BITS = 8
) (
    input  wire                                ap_clk,
    input  wire                                ap_rst_n,

    input  wire  [((BITS+7)/8)*8-1:0]          in0_V_tdata,
    input  wire                                in0_V_tvalid,
    output logic                               in0_V_tready,

    output logic [OUTPUTS*((BITS+7)/8)*8-1:0]  out_V_tdata,
    output logic [OUTPUTS-1:0]                 out_V_tvalid,
    input  wire  [OUTPUTS-1:0]                 out_V_tready
);
    if (OUTPUTS < 1) $error("duplicate_streams: OUTPUTS=%0d, expected 1 or more", OUTPUTS);

    localparam int PORT_BITS = ((BITS + 7) / 8) * 8;

    logic [PORT_BITS-1:0] data;
    logic valid;
    logic [OUTPUTS-1:0] served;  // has taken this beat in an earlier cycle

    wire done = &(served | out_V_tready);

    stream_register #(.BITS(BITS)) register (
        .ap_clk, .ap_rst_n,
        .in0_V_tdata, .in0_V_tvalid, .in0_V_tready,
        .out0_V_tdata(data), .out0_V_tvalid(valid), .out0_V_tready(done)
    );

    assign out_V_tdata = {OUTPUTS{data}};
    assign out_V_tvalid = {OUTPUTS{valid}} & ~served;

    always_ff @(posedge ap_clk) begin
        if (!ap_rst_n) served <= '0;
        else if (valid) served <= done ? '0 : served | out_V_tready;
    end
endmodule

`default_nettype wire
