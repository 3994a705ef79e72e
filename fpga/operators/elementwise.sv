// The sum or the product of two streams, lane by lane; OUTPUT_BITS must hold every result.
//
// A beat is taken when both inputs offer one. Throughput one beat a cycle. A product has the three
// registers of a DSP: of its operands, behind its multiplier and behind its adder.
`default_nettype none

module elementwise #(
    parameter int PE = 1,
    parameter int MULTIPLY = 0,         // 0 adds
    parameter int LEFT_BITS = 8,
    parameter int LEFT_SIGNED = 1,
    parameter int RIGHT_BITS = 8,
    parameter int RIGHT_SIGNED = 1,
    parameter int OUTPUT_BITS = 9
) (
    input  wire                                  ap_clk,
    input  wire                                  ap_rst_n,

    input  wire  [((PE*LEFT_BITS+7)/8)*8-1:0]    in0_V_tdata,
    input  wire                                  in0_V_tvalid,
    output logic                                 in0_V_tready,

    input  wire  [((PE*RIGHT_BITS+7)/8)*8-1:0]   in1_V_tdata,
    input  wire                                  in1_V_tvalid,
    output logic                                 in1_V_tready,

    output logic [((PE*OUTPUT_BITS+7)/8)*8-1:0]  out0_V_tdata,
    output logic                                 out0_V_tvalid,
    input  wire                                  out0_V_tready
);
    if (PE < 1) $error("elementwise: PE=%0d, expected 1 or more", PE);

    localparam int A_BITS = LEFT_BITS + (LEFT_SIGNED == 0 ? 1 : 0);
    localparam int B_BITS = RIGHT_BITS + (RIGHT_SIGNED == 0 ? 1 : 0);

    localparam int STAGES = MULTIPLY != 0 ? 3 : 2;

    logic step;
    logic [STAGES-1:0] valid;
    logic [PE*OUTPUT_BITS-1:0] results;

    assign in0_V_tready = step && in1_V_tvalid;
    assign in1_V_tready = step && in0_V_tvalid;

    always_ff @(posedge ap_clk) begin
        if (!ap_rst_n) valid <= '0;
        else if (step) valid <= {valid[STAGES-2:0], in0_V_tvalid && in1_V_tvalid};
    end

    for (genvar lane = 0; lane < PE; lane++) begin : g_lane
        wire [LEFT_BITS-1:0] left = in0_V_tdata[lane*LEFT_BITS +: LEFT_BITS];
        wire [RIGHT_BITS-1:0] right = in1_V_tdata[lane*RIGHT_BITS +: RIGHT_BITS];
        logic signed [A_BITS-1:0] a;
        logic signed [B_BITS-1:0] b;

        always_ff @(posedge ap_clk) begin
            if (step) begin
                if (LEFT_SIGNED != 0) a <= A_BITS'(signed'(left));
                else a <= A_BITS'(left);
                if (RIGHT_SIGNED != 0) b <= B_BITS'(signed'(right));
                else b <= B_BITS'(right);
            end
        end

        if (MULTIPLY != 0) begin : g_multiply
            (* use_dsp = "yes" *) logic signed [A_BITS+B_BITS-1:0] multiplied;
            logic signed [A_BITS+B_BITS-1:0] product;
            always_ff @(posedge ap_clk) begin
                if (step) begin
                    multiplied <= a * b;
                    product <= multiplied;
                end
            end
            assign results[lane*OUTPUT_BITS +: OUTPUT_BITS] = OUTPUT_BITS'(product);
        end else begin : g_add
            logic signed [OUTPUT_BITS-1:0] sum;
            always_ff @(posedge ap_clk) if (step) sum <= OUTPUT_BITS'(a) + OUTPUT_BITS'(b);
            assign results[lane*OUTPUT_BITS +: OUTPUT_BITS] = sum;
        end
    end

    stream_register #(.BITS(PE*OUTPUT_BITS)) register (
        .ap_clk, .ap_rst_n,
        .in0_V_tdata(((PE*OUTPUT_BITS+7)/8*8)'(results)), .in0_V_tvalid(valid[STAGES-1]),
        .in0_V_tready(step),
        .out0_V_tdata, .out0_V_tvalid, .out0_V_tready
    );
endmodule

`default_nettype wire
