// Any function of one code: a ROM of 2^INPUT_BITS codes in each of PE lanes.
//
// TABLE is addressed by the code's bits, so a negative code is in the upper half.
// Throughput one beat a cycle.
`default_nettype none

module table_activation #(
    parameter int PE = 1,
    parameter int INPUT_BITS = 8,
    parameter int OUTPUT_BITS = 8,
    parameter string TABLE = "table.dat"
) (
    input  wire                                  ap_clk,
    input  wire                                  ap_rst_n,

    input  wire  [((PE*INPUT_BITS+7)/8)*8-1:0]   in0_V_tdata,
    input  wire                                  in0_V_tvalid,
    output logic                                 in0_V_tready,

    output logic [((PE*OUTPUT_BITS+7)/8)*8-1:0]  out0_V_tdata,
    output logic                                 out0_V_tvalid,
    input  wire                                  out0_V_tready
);
    if (PE < 1) $error("table_activation: PE=%0d, expected 1 or more", PE);
    if (INPUT_BITS < 1 || INPUT_BITS > 12)
        $error("table_activation: INPUT_BITS=%0d, expected 1 to 12", INPUT_BITS);

    logic step, valid;
    logic [PE*OUTPUT_BITS-1:0] codes;

    assign in0_V_tready = step;

    always_ff @(posedge ap_clk) begin
        if (!ap_rst_n) valid <= 1'b0;
        else if (step) valid <= in0_V_tvalid;
    end

    for (genvar lane = 0; lane < PE; lane++) begin : g_lane
        logic [OUTPUT_BITS-1:0] rom [2**INPUT_BITS];
        initial $readmemh(TABLE, rom);
        always_ff @(posedge ap_clk)
            if (step)
                codes[lane*OUTPUT_BITS +: OUTPUT_BITS]
                    <= rom[in0_V_tdata[lane*INPUT_BITS +: INPUT_BITS]];
    end

    stream_register #(.BITS(PE*OUTPUT_BITS)) register (
        .ap_clk, .ap_rst_n,
        .in0_V_tdata(((PE*OUTPUT_BITS+7)/8*8)'(codes)), .in0_V_tvalid(valid), .in0_V_tready(step),
        .out0_V_tdata, .out0_V_tvalid, .out0_V_tready
    );
endmodule

`default_nettype wire
