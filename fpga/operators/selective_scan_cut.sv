// The end of a cut: drops the low bits of a sum that holds the half already, then saturates.
//
// Latency 1. Without SIGNED the value must not be negative, and the result is unsigned.
`default_nettype none

module selective_scan_cut #(
    parameter int IN_BITS = 8,
    parameter int DROP = 0,      // a negative one appends zeros
    parameter int OUT_BITS = 8,
    parameter bit SIGNED = 1
) (
    input  wire                       ap_clk,
    input  wire signed [IN_BITS-1:0]  value,
    output logic [OUT_BITS-1:0]       result
);
    if (DROP >= IN_BITS) $error("selective_scan_cut: DROP=%0d of %0d bits", DROP, IN_BITS);

    localparam int KEPT_BITS = IN_BITS - DROP;

    logic signed [KEPT_BITS-1:0] kept;
    if (DROP >= 0) begin : drops
        assign kept = value[IN_BITS-1:DROP];
        if (DROP > 0) begin : rest
            wire unused = &{1'b0, value[DROP-1:0]};
        end
    end else begin : appends
        assign kept = {value, {-DROP{1'b0}}};
    end

    if (KEPT_BITS <= OUT_BITS) begin : fits
        always_ff @(posedge ap_clk) result <= OUT_BITS'(kept);
    end else if (SIGNED) begin : to_signed
        wire negative = kept[KEPT_BITS-1];
        wire exceeds = kept[KEPT_BITS-1:OUT_BITS-1] != {KEPT_BITS - OUT_BITS + 1{negative}};
        // behind the sign all bits are its inverse: the lowest or the highest code
        wire [OUT_BITS-1:0] limit = {negative, {OUT_BITS - 1{!negative}}};
        always_ff @(posedge ap_clk) result <= exceeds ? limit : kept[OUT_BITS-1:0];
    end else begin : to_unsigned
        wire exceeds = kept[KEPT_BITS-1:OUT_BITS] != '0;
        always_ff @(posedge ap_clk) result <= exceeds ? '1 : kept[OUT_BITS-1:0];
    end
endmodule

`default_nettype wire
