// drive = delta * x * 2 ** shift, cut. The shift is applied to x, which is narrow.
//
// Latency 6 from x and its shift, 4 from delta.
`default_nettype none

module selective_scan_drive #(
    parameter int INPUT_BITS = 8,
    parameter int DELTA_BITS = 16,
    parameter int SHIFT_BITS = 4,
    parameter int LARGEST_SHIFT = 15,
    parameter int DRIVE_SUM_BITS = 40,
    parameter int DRIVE_DROP = 6,
    parameter int DRIVE_BITS = 18
) (
    input  wire                          ap_clk,
    input  wire  signed [INPUT_BITS-1:0] x_0,
    input  wire  [SHIFT_BITS-1:0]        shift_0,
    input  wire  [DELTA_BITS-1:0]        delta_2,
    output logic signed [DRIVE_BITS-1:0] drive_6
);
    localparam int LIFTED_BITS = INPUT_BITS + LARGEST_SHIFT;
    localparam int FINE_BITS = SHIFT_BITS < 2 ? SHIFT_BITS : 2;
    logic signed [LIFTED_BITS-1:0] lifted_1, lifted_2;
    always_ff @(posedge ap_clk) lifted_1 <= LIFTED_BITS'(x_0) <<< shift_0[FINE_BITS-1:0];
    if (SHIFT_BITS > FINE_BITS) begin : coarse
        logic [SHIFT_BITS-FINE_BITS-1:0] steps_1;
        always_ff @(posedge ap_clk) begin
            steps_1 <= shift_0[SHIFT_BITS-1:FINE_BITS];
            lifted_2 <= lifted_1 <<< {steps_1, {FINE_BITS{1'b0}}};
        end
    end else begin : fine
        always_ff @(posedge ap_clk) lifted_2 <= lifted_1;
    end

    localparam logic signed [DRIVE_SUM_BITS-1:0] DRIVE_HALF =
        DRIVE_DROP > 0 ? DRIVE_SUM_BITS'(1) << (DRIVE_DROP - 1) : '0;
    logic signed [DRIVE_SUM_BITS-1:0] sum_5;
    selective_scan_multiply #(
        .A_BITS(LIFTED_BITS),
        .B_BITS(DELTA_BITS + 1),
        .P_BITS(DRIVE_SUM_BITS)
    ) drive_product (
        .ap_clk(ap_clk),
        .a(lifted_2),
        .clear(1'b0),
        .b({1'b0, delta_2}),
        .c(DRIVE_HALF),
        .p(sum_5)
    );
    selective_scan_cut #(
        .IN_BITS(DRIVE_SUM_BITS),
        .DROP(DRIVE_DROP),
        .OUT_BITS(DRIVE_BITS)
    ) drive_cut (
        .ap_clk(ap_clk),
        .value(sum_5),
        .result(drive_6)
    );
endmodule

`default_nettype wire
