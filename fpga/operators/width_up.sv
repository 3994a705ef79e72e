// Joins PARTS beats of a stream into one, the first in the low bits.
//
// Throughput one input beat a cycle for PARTS >= 2.
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

    logic [BITS*(PARTS-1)-1:0] parts;
    logic [BITS*PARTS-1:0] word;
    logic [$clog2(PARTS)-1:0] count;

    wire last = count == $bits(count)'(PARTS - 1);
    wire take = in0_V_tvalid && in0_V_tready;
    wire [BITS*PARTS-1:0] joined = {in0_V_tdata[BITS-1:0], parts};

    assign in0_V_tready = !last || !out0_V_tvalid;
    assign out0_V_tdata = PORT_BITS'(word);

    always_ff @(posedge ap_clk) begin
        if (take) parts <= joined[BITS*PARTS-1:BITS];
        if (take && last) word <= joined;
    end

    always_ff @(posedge ap_clk) begin
        if (!ap_rst_n) begin
            count <= '0;
            out0_V_tvalid <= 1'b0;
        end else begin
            if (take) count <= last ? '0 : count + 1'b1;
            if (take && last) out0_V_tvalid <= 1'b1;
            else if (out0_V_tready) out0_V_tvalid <= 1'b0;
        end
    end
endmodule

`default_nettype wire
