// A place along one axis of a map, and whether a window ends there that is put out.
//
// Windows of KERNEL places begin at every STRIDE-th place. Both outputs are flip-flops.
`default_nettype none

module window_edge #(
    parameter int SIZE = 1,
    parameter int KERNEL = 1,
    parameter int STRIDE = 1
) (
    input  wire  ap_clk,
    input  wire  ap_rst_n,
    input  wire  step,
    output logic last,
    output logic ends
);
    if (KERNEL < 1 || KERNEL > SIZE || STRIDE < 1)
        $error("window_edge: SIZE=%0d, KERNEL=%0d, STRIDE=%0d", SIZE, KERNEL, STRIDE);

    logic [$clog2(SIZE+1)-1:0] place;
    wrap_counter #(.COUNT(SIZE), .BITS($bits(place))) places (
        .ap_clk, .ap_rst_n, .step, .value(place), .last
    );

    if (STRIDE == 1) begin : g_each
        always_ff @(posedge ap_clk) begin
            if (!ap_rst_n) ends <= KERNEL == 1;
            else if (step && last) ends <= KERNEL == 1;
            else if (step && place == $bits(place)'(KERNEL - 2)) ends <= 1'b1;
        end
    end else begin : g_some
        logic [$clog2(STRIDE+KERNEL)-1:0] left;  // steps to the next end
        always_ff @(posedge ap_clk) begin
            if (!ap_rst_n || (step && last)) begin
                left <= $bits(left)'(KERNEL - 1);
                ends <= KERNEL == 1;
            end else if (step) begin
                left <= left == '0 ? $bits(left)'(STRIDE - 1) : left - 1'b1;
                ends <= left == 1;
            end
        end
    end
endmodule

`default_nettype wire
