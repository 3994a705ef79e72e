// Splits each beat of a stream into PARTS, the low bits first.
//
// Throughput one output beat a cycle for PARTS >= 2.
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

    logic [BITS*PARTS-1:0] waiting, word;
    logic waits;
    logic [$clog2(PARTS)-1:0] count;

    wire last = count == $bits(count)'(PARTS - 1);
    wire empties = !out0_V_tvalid || (out0_V_tready && last);

    assign in0_V_tready = !waits;
    assign out0_V_tdata = PORT_BITS'(word[BITS-1:0]);

    always_ff @(posedge ap_clk) begin
        if (!waits) waiting <= in0_V_tdata[BITS*PARTS-1:0];
        if (empties) word <= waits ? waiting : in0_V_tdata[BITS*PARTS-1:0];
        else if (out0_V_tready) word <= word >> BITS;
    end

    always_ff @(posedge ap_clk) begin
        if (!ap_rst_n) begin
            waits <= 1'b0;
            count <= '0;
            out0_V_tvalid <= 1'b0;
        end else begin
            if (empties) begin
                out0_V_tvalid <= waits || in0_V_tvalid;
                waits <= 1'b0;
            end else if (in0_V_tvalid) begin
                waits <= 1'b1;
            end
            if (out0_V_tvalid && out0_V_tready) count <= last ? '0 : count + 1'b1;
        end
    end
endmodule

`default_nettype wire
