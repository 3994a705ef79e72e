// A memory of constants; latency 1.
`default_nettype none

module selective_scan_rom #(
    parameter int WORDS = 2,
    parameter int BITS = 8,
    parameter string FILE = "",
    parameter string STYLE = "auto"
) (
    input  wire                                          ap_clk,
    input  wire  [(WORDS > 1 ? $clog2(WORDS) : 1)-1:0]   address,
    output logic [BITS-1:0]                              word
);
    (* rom_style = STYLE *) logic [BITS-1:0] memory[WORDS];
    initial $readmemh(FILE, memory);

    always_ff @(posedge ap_clk) word <= memory[address];
endmodule

`default_nettype wire
