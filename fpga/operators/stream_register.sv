// A register between two streams: two words, so that neither valid nor ready passes through it.
//
// Throughput one word a cycle; latency one cycle. in0_V_tready is a flip-flop.
`default_nettype none

module stream_register #(
    parameter int BITS = 8
) (
    input  wire                        ap_clk,
    input  wire                        ap_rst_n,

    input  wire  [((BITS+7)/8)*8-1:0]  in0_V_tdata,
    input  wire                        in0_V_tvalid,
    output logic                       in0_V_tready,

    output logic [((BITS+7)/8)*8-1:0]  out0_V_tdata,
    output logic                       out0_V_tvalid,
    input  wire                        out0_V_tready
);
    if (BITS < 1) $error("stream_register: BITS=%0d, expected 1 or more", BITS);

    localparam int PORT_BITS = ((BITS + 7) / 8) * 8;

    logic [BITS-1:0] front;  // what is offered
    logic [BITS-1:0] spare;  // what came while the front had to wait

    always_ff @(posedge ap_clk) begin
        if (in0_V_tready) spare <= in0_V_tdata[BITS-1:0];
        if (!out0_V_tvalid || out0_V_tready) front <= in0_V_tready ? in0_V_tdata[BITS-1:0] : spare;
    end

    always_ff @(posedge ap_clk) begin
        if (!ap_rst_n) begin
            in0_V_tready <= 1'b1;
            out0_V_tvalid <= 1'b0;
        end else if (!out0_V_tvalid || out0_V_tready) begin
            out0_V_tvalid <= in0_V_tvalid || !in0_V_tready;
            in0_V_tready <= 1'b1;
        end else if (in0_V_tvalid) begin
            in0_V_tready <= 1'b0;
        end
    end

    assign out0_V_tdata = PORT_BITS'(front);

    // Bits of the port above the word.
    wire unused = &{1'b0, in0_V_tdata};
endmodule

`default_nettype wire
