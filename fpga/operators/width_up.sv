// Joins PARTS beats of a stream into one, the first in the low bits.
//
// Throughput one input beat a cycle for PARTS >= 2. Of a wide output each GROUP bits have the count
// and the flag of their own, so that no net has to reach all of it.
`default_nettype none

module width_up #(
    parameter int BITS = 8,  // of an input beat
    parameter int PARTS = 2
) (
    input  wire                              ap_clk,
    input  wire                              ap_rst_n,

    input  wire  [((BITS+7)/8)*8-1:0]        in0_V_tdata,
    input  wire                              in0_V_tvalid,
    output logic                             in0_V_tready,

    output logic [((BITS*PARTS+7)/8)*8-1:0]  out0_V_tdata,
    output logic                             out0_V_tvalid,
    input  wire                              out0_V_tready
);
    if (BITS < 1 || PARTS < 2)
        $error("width_up: BITS=%0d, PARTS=%0d, expected at least 1 and 2", BITS, PARTS);

    localparam int PORT_BITS = ((BITS * PARTS + 7) / 8) * 8;

    localparam int WIDTH = BITS * PARTS;
    localparam int GROUP = 240;  // bits that one enable reaches
    localparam int GROUPS = (WIDTH + GROUP - 1) / GROUP;

    logic [WIDTH-1:0] word;
    logic [WIDTH-1:BITS] parts;  // the last of them; what is below has been taken
    wire [WIDTH-1:0] joined = {in0_V_tdata[BITS-1:0], parts};
    wire [GROUPS-1:0] ready, valid;
    assign in0_V_tready = ready[0];
    assign out0_V_tvalid = valid[0];
    assign out0_V_tdata = PORT_BITS'(word);
    for (genvar group = 0; group < GROUPS; group++) begin : g_group
        localparam int START = group * GROUP;
        localparam int WIDE = START + GROUP > WIDTH ? WIDTH - START : GROUP;
        (* keep = "true" *) logic [$clog2(PARTS)-1:0] count;
        (* keep = "true" *) logic offers;
        wire last = count == $bits(count)'(PARTS - 1);
        wire take = in0_V_tvalid && ready[group];
        assign {ready[group], valid[group]} = {!last || !offers, offers};

        always_ff @(posedge ap_clk)
            if (take && last) word[START +: WIDE] <= joined[START +: WIDE];
        if (START + WIDE > BITS) begin : g_parts
            localparam int FROM = START > BITS ? START : BITS;
            localparam int OWN = START + WIDE - FROM;
            always_ff @(posedge ap_clk) if (take) parts[FROM +: OWN] <= joined[FROM +: OWN];
        end

        always_ff @(posedge ap_clk) begin
            if (!ap_rst_n) begin
                count <= '0;
                offers <= 1'b0;
            end else begin
                if (take) count <= last ? '0 : count + 1'b1;
                if (take && last) offers <= 1'b1;
                else if (out0_V_tready) offers <= 1'b0;
            end
        end
    end

    wire unused = &{1'b0, in0_V_tdata, ready, valid};
endmodule

`default_nettype wire
