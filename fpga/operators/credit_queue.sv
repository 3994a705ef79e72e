// A queue whose input cannot wait: what will end in a word is only begun with a credit.
//
// A credit is a free place. `spend` takes one, which needs `credit`; the word is pushed any number of
// cycles later, words in the order in which their credits were spent. A credit is spent for
// OVERHEAD = 4 cycles more than a word takes from `spend` to `push`, where the sink takes every word:
// for one word a cycle DEPTH is at least both together. Latency 2 cycles. No register of a word has an
// enable: while a word is not taken, it is read again.
`default_nettype none

module credit_queue #(
    parameter int BITS  = 8,
    parameter int DEPTH = 32  // a power of two
) (
    input  wire                        ap_clk,
    input  wire                        ap_rst_n,

    output logic                       credit,
    input  wire                        spend,
    input  wire                        push,
    input  wire  [BITS-1:0]            word,

    output logic [((BITS+7)/8)*8-1:0]  out0_V_tdata,
    output logic                       out0_V_tvalid,
    input  wire                        out0_V_tready
);
    localparam int ADDRESS_BITS = $clog2(DEPTH);
    localparam int PORT_BITS = ((BITS + 7) / 8) * 8;
    if (DEPTH < 2 || DEPTH != 1 << ADDRESS_BITS)
        $error("credit_queue: DEPTH=%0d, expected a power of two", DEPTH);

    (* ram_style = "distributed" *) logic [BITS-1:0] memory[DEPTH];
    logic [BITS-1:0] offered;
    logic [ADDRESS_BITS:0] written, read, following;  // following = read + 1
    logic [ADDRESS_BITS:0] credits;
    logic returned;

    wire taken = out0_V_tvalid && out0_V_tready;
    wire [ADDRESS_BITS:0] reading = taken ? following : read;
    assign credit = credits != '0;

    always_ff @(posedge ap_clk) begin
        if (push) memory[written[ADDRESS_BITS-1:0]] <= word;
        offered <= memory[reading[ADDRESS_BITS-1:0]];
    end

    always_ff @(posedge ap_clk) begin
        if (!ap_rst_n) begin
            written <= '0;
            read <= '0;
            following <= (ADDRESS_BITS + 1)'(1);
            credits <= (ADDRESS_BITS + 1)'(DEPTH);
            returned <= 1'b0;
            out0_V_tvalid <= 1'b0;
        end else begin
            if (push) written <= written + 1'b1;
            read <= reading;
            following <= reading + 1'b1;
            out0_V_tvalid <= taken ? written != following : written != read;
            returned <= taken;
            if (spend != returned) credits <= spend ? credits - 1'b1 : credits + 1'b1;
        end
    end

    assign out0_V_tdata = PORT_BITS'(offered);

`ifdef VERILATOR
    wire full = written - read == (ADDRESS_BITS + 1)'(DEPTH);
    always_ff @(posedge ap_clk) begin
        if (ap_rst_n && push && full) $fatal(1, "credit_queue: a word is pushed while it is full");
        if (ap_rst_n && spend && !credit) $fatal(1, "credit_queue: a credit is spent without any");
    end
`endif
endmodule

`default_nettype wire
