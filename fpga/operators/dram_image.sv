// Follows the bursts of images, BURSTS each: last says that the next one is the last of an image.
`default_nettype none

module dram_image #(
    parameter int BURSTS = 1
) (
    input  wire  ap_clk,
    input  wire  ap_rst_n,
    input  wire  step,  // a burst is done
    output logic last
);
    if (BURSTS == 1) begin : g_one
        assign last = 1'b1;
        wire unused = &{1'b0, ap_clk, ap_rst_n, step};
    end else begin : g_several
        typedef logic [$clog2(BURSTS)-1:0] count_t;
        count_t done;
        always_ff @(posedge ap_clk) begin
            if (!ap_rst_n) begin
                done <= '0;
                last <= 1'b0;
            end else if (step) begin
                done <= last ? '0 : done + 1'b1;
                last <= done == count_t'(BURSTS - 2);
            end
        end
    end
endmodule

`default_nettype wire
