// A FIFO whose input cannot wait: whoever fills it holds a credit for every free place.
//
// `taken` says that a place has become free. Latency 2; all outputs come from registers.
`default_nettype none

module selective_scan_fifo #(
    parameter int BITS = 8,
    parameter int DEPTH = 4  // a power of two
) (
    input  wire                        ap_clk,
    input  wire                        ap_rst_n,
    input  wire                        push,
    input  wire  [BITS-1:0]            word,
    output logic                       taken,

    output logic [((BITS+7)/8)*8-1:0]  out0_V_tdata,
    output logic                       out0_V_tvalid,
    input  wire                        out0_V_tready
);
    localparam int ADDRESS_BITS = $clog2(DEPTH);
    localparam int PORT_BITS = ((BITS + 7) / 8) * 8;
    if (DEPTH < 2 || DEPTH != 1 << ADDRESS_BITS)
        $error("selective_scan_fifo: DEPTH=%0d, expected a power of two", DEPTH);

    (* ram_style = "distributed" *) logic [BITS-1:0] memory[DEPTH];
    logic [ADDRESS_BITS:0] written, read;
    wire waits = written != read;
    logic ready;
    assign taken = waits && ready;

    always_ff @(posedge ap_clk) if (push) memory[written[ADDRESS_BITS-1:0]] <= word;

    always_ff @(posedge ap_clk) begin
        if (!ap_rst_n) begin
            written <= '0;
            read <= '0;
        end else begin
            if (push) written <= written + 1'b1;
            if (taken) read <= read + 1'b1;
        end
    end

    stream_register #(
        .BITS(BITS)
    ) offered (
        .ap_clk(ap_clk),
        .ap_rst_n(ap_rst_n),
        .in0_V_tdata(PORT_BITS'(memory[read[ADDRESS_BITS-1:0]])),
        .in0_V_tvalid(waits),
        .in0_V_tready(ready),
        .out0_V_tdata(out0_V_tdata),
        .out0_V_tvalid(out0_V_tvalid),
        .out0_V_tready(out0_V_tready)
    );
endmodule

`default_nettype wire
