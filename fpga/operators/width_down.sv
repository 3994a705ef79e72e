// Splits each beat of a stream into PARTS, the low bits first.
//
// Throughput one output beat a cycle for PARTS >= 2. Of a wide input each GROUP bits have the count and
// the flags of their own, so that no net has to reach all of it.
`default_nettype none

module width_down #(
    parameter int BITS = 8,  // of an output beat
    parameter int PARTS = 2
) (
    input  wire                              ap_clk,
    input  wire                              ap_rst_n,

    input  wire  [((BITS*PARTS+7)/8)*8-1:0]  in0_V_tdata,
    input  wire                              in0_V_tvalid,
    output logic                             in0_V_tready,

    output logic [((BITS+7)/8)*8-1:0]        out0_V_tdata,
    output logic                             out0_V_tvalid,
    input  wire                              out0_V_tready
);
    if (BITS < 1 || PARTS < 2)
        $error("width_down: BITS=%0d, PARTS=%0d, expected at least 1 and 2", BITS, PARTS);

    localparam int PORT_BITS = ((BITS + 7) / 8) * 8;

    localparam int WIDTH = BITS * PARTS;
    localparam int GROUP = 240;  // bits that one enable reaches
    localparam int GROUPS = (WIDTH + GROUP - 1) / GROUP;

    logic [WIDTH-1:0] word;
    wire [WIDTH-1:0] rest = word >> BITS;
    wire [GROUPS-1:0] ready, valid;
    assign in0_V_tready = ready[0];
    assign out0_V_tvalid = valid[0];
    assign out0_V_tdata = PORT_BITS'(word[BITS-1:0]);
    for (genvar group = 0; group < GROUPS; group++) begin : g_group
        localparam int START = group * GROUP;
        localparam int WIDE = START + GROUP > WIDTH ? WIDTH - START : GROUP;
        (* keep = "true" *) logic [$clog2(PARTS)-1:0] count;
        (* keep = "true" *) logic waits, offers;
        logic [WIDE-1:0] waiting;
        wire [WIDE-1:0] whole = in0_V_tdata[START +: WIDE];
        wire last = count == $bits(count)'(PARTS - 1);
        wire empties = !offers || (out0_V_tready && last);
        assign {ready[group], valid[group]} = {!waits, offers};

        always_ff @(posedge ap_clk) begin
            if (!waits) waiting <= whole;
            if (empties) word[START +: WIDE] <= waits ? waiting : whole;
            else if (out0_V_tready) word[START +: WIDE] <= rest[START +: WIDE];
        end

        always_ff @(posedge ap_clk) begin
            if (!ap_rst_n) begin
                waits <= 1'b0;
                count <= '0;
                offers <= 1'b0;
            end else begin
                if (empties) begin
                    offers <= waits || in0_V_tvalid;
                    waits <= 1'b0;
                end else if (in0_V_tvalid) begin
                    waits <= 1'b1;
                end
                if (offers && out0_V_tready) count <= last ? '0 : count + 1'b1;
            end
        end
    end

    wire unused = &{1'b0, in0_V_tdata, ready, valid};
endmodule

`default_nettype wire
