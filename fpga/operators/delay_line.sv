// A word CYCLES cycles later, in flip-flops: a shift register would take LUTs, which are scarcer.
`default_nettype none

module delay_line #(
    parameter int BITS   = 1,
    parameter int CYCLES = 1
) (
    input  wire              ap_clk,
    input  wire  [BITS-1:0]  word,
    output logic [BITS-1:0]  later
);
    if (CYCLES < 0) $error("delay_line: CYCLES=%0d, expected 0 or more", CYCLES);

    if (CYCLES == 0) begin : gen_none
        assign later = word;
        wire unused = &{1'b0, ap_clk};
    end else begin : gen_stages
        for (genvar i = 0; i < CYCLES; i++) begin : gen_stage
            (* keep = "true", shreg_extract = "no" *) logic [BITS-1:0] held;
            if (i == 0) begin : gen_first
                always_ff @(posedge ap_clk) held <= word;
            end else begin : gen_next
                always_ff @(posedge ap_clk) held <= gen_stage[i-1].held;
            end
        end
        assign later = gen_stage[CYCLES-1].held;
    end
endmodule

`default_nettype wire
