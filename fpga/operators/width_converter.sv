// From a stream of one width to one of another that carries the same bits, low bits first.
//
// Where neither width divides the other, the beats are joined to COMMON_BITS first, the smallest
// multiple of both. Throughput one beat a cycle on the narrower side.
`default_nettype none

module width_converter #(
    parameter int INPUT_BITS = 8,
    parameter int OUTPUT_BITS = 16,
    parameter int COMMON_BITS = 16
) (
    input  wire                               ap_clk,
    input  wire                               ap_rst_n,

    input  wire  [((INPUT_BITS+7)/8)*8-1:0]   in0_V_tdata,
    input  wire                               in0_V_tvalid,
    output logic                              in0_V_tready,

    output logic [((OUTPUT_BITS+7)/8)*8-1:0]  out0_V_tdata,
    output logic                              out0_V_tvalid,
    input  wire                               out0_V_tready
);
    if (COMMON_BITS % INPUT_BITS != 0 || COMMON_BITS % OUTPUT_BITS != 0)
        $error("width_converter: COMMON_BITS=%0d is no multiple of %0d and %0d", COMMON_BITS,
               INPUT_BITS, OUTPUT_BITS);

    logic [((COMMON_BITS+7)/8)*8-1:0] common_tdata;
    logic common_tvalid, common_tready;

    if (COMMON_BITS > INPUT_BITS) begin : g_up
        width_up #(.BITS(INPUT_BITS), .PARTS(COMMON_BITS / INPUT_BITS)) up (
            .ap_clk, .ap_rst_n, .in0_V_tdata, .in0_V_tvalid, .in0_V_tready,
            .out0_V_tdata(common_tdata), .out0_V_tvalid(common_tvalid),
            .out0_V_tready(common_tready)
        );
    end else begin : g_same_input
        assign common_tdata = in0_V_tdata;
        assign common_tvalid = in0_V_tvalid;
        assign in0_V_tready = common_tready;
    end

    if (COMMON_BITS > OUTPUT_BITS) begin : g_down
        width_down #(.BITS(OUTPUT_BITS), .PARTS(COMMON_BITS / OUTPUT_BITS)) down (
            .ap_clk, .ap_rst_n,
            .in0_V_tdata(common_tdata), .in0_V_tvalid(common_tvalid), .in0_V_tready(common_tready),
            .out0_V_tdata, .out0_V_tvalid, .out0_V_tready
        );
    end else if (COMMON_BITS > INPUT_BITS) begin : g_same_output
        assign out0_V_tdata = common_tdata;
        assign out0_V_tvalid = common_tvalid;
        assign common_tready = out0_V_tready;
    end else begin : g_same
        stream_register #(.BITS(OUTPUT_BITS)) register (
            .ap_clk, .ap_rst_n,
            .in0_V_tdata(common_tdata), .in0_V_tvalid(common_tvalid), .in0_V_tready(common_tready),
            .out0_V_tdata, .out0_V_tvalid, .out0_V_tready
        );
    end
endmodule

`default_nettype wire
