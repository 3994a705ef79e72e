// Counts 0 to COUNT - 1, again and again. Whether it is at its last value is in a register.
`default_nettype none

module wrap_counter #(
    parameter int COUNT = 2,
    parameter int BITS = COUNT > 1 ? $clog2(COUNT) : 1
) (
    input  wire              ap_clk,
    input  wire              ap_rst_n,
    input  wire              step,
    output logic [BITS-1:0]  value,
    output logic             last
);
    if (COUNT < 1) $error("wrap_counter: COUNT=%0d, expected 1 or more", COUNT);

    if (COUNT == 1) begin : g_one
        assign value = '0;
        assign last = 1'b1;
    end else begin : g_many
        always_ff @(posedge ap_clk) begin
            if (!ap_rst_n) begin
                value <= '0;
                last <= 1'b0;
            end else if (step) begin
                value <= last ? '0 : value + 1'b1;
                last <= value == BITS'(COUNT - 2);
            end
        end
    end
endmodule

`default_nettype wire
