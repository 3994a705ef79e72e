// A register between two streams: two words, so that neither valid nor ready passes through it.
//
// Throughput one word a cycle; latency one cycle. in0_V_tready is a flip-flop. Of a wide word each
// GROUP bits have both flip-flops of their own, so that no net has to reach all of it.
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
    localparam int GROUP = 240;  // bits that one enable reaches
    localparam int GROUPS = (BITS + GROUP - 1) / GROUP;

    logic [BITS-1:0] front;  // what is offered
    wire [GROUPS-1:0] ready, valid;
    assign in0_V_tready = ready[0];
    assign out0_V_tvalid = valid[0];
    for (genvar group = 0; group < GROUPS; group++) begin : g_group
        localparam int START = group * GROUP;
        localparam int WIDE = START + GROUP > BITS ? BITS - START : GROUP;
        (* keep = "true" *) logic accepts, offers;
        logic [WIDE-1:0] spare;  // what came while the front had to wait
        wire [WIDE-1:0] word = in0_V_tdata[START +: WIDE];
        assign {ready[group], valid[group]} = {accepts, offers};

        always_ff @(posedge ap_clk) begin
            if (accepts) spare <= word;
            if (!offers || out0_V_tready) front[START +: WIDE] <= accepts ? word : spare;
        end

        always_ff @(posedge ap_clk) begin
            if (!ap_rst_n) begin
                accepts <= 1'b1;
                offers <= 1'b0;
            end else if (!offers || out0_V_tready) begin
                offers <= in0_V_tvalid || !accepts;
                accepts <= 1'b1;
            end else if (in0_V_tvalid) begin
                accepts <= 1'b0;
            end
        end
    end

    assign out0_V_tdata = PORT_BITS'(front);

    // bits of the port above the word, and the copies
    wire unused = &{1'b0, in0_V_tdata, ready, valid};
endmodule

`default_nettype wire
