// A word CYCLES cycles later; a shift register without reset.
`default_nettype none

module selective_scan_delay #(
    parameter int BITS = 1,
    parameter int CYCLES = 1
) (
    input  wire              ap_clk,
    input  wire  [BITS-1:0]  word,
    output logic [BITS-1:0]  later
);
    if (CYCLES < 0) $error("selective_scan_delay: CYCLES=%0d, expected 0 or more", CYCLES);

    if (CYCLES == 0) begin : direct
        assign later = word;
    end else begin : shifts
        logic [CYCLES*BITS-1:0] line;
        if (CYCLES == 1) begin : one
            always_ff @(posedge ap_clk) line <= word;
        end else begin : several
            always_ff @(posedge ap_clk) line <= {line[(CYCLES-1)*BITS-1:0], word};
        end
        assign later = line[CYCLES*BITS-1-:BITS];
    end
endmodule

`default_nettype wire
