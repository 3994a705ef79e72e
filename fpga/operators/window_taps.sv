// The registers of some bits of a window: TAPS columns, the newest of them last.
//
// With several folds a pixel, the columns of a fold are FOLDS steps apart; those of the other folds
// are in a memory meanwhile, of LUTs for up to 32 folds, else one with a registered output. What a
// step depends on is in each instance once more, so that no net has to reach a whole window.
`default_nettype none

module window_taps #(
    parameter int BITS = 8,
    parameter int TAPS = 3,
    parameter int FOLDS = 1
) (
    input  wire                    ap_clk,
    input  wire                    ap_rst_n,

    input  wire                    offered,   // there is a column
    input  wire                    complete,  // ... which completes a window that is put out
    input  wire  [BITS-1:0]        column,

    output logic [TAPS*BITS-1:0]   taps,      // the oldest in the low bits
    output logic                   valid,
    input  wire                    ready,
    output logic                   step
);
    localparam int OLDER = (TAPS - 1) * BITS;
    (* keep *) logic filled;
    wire moves = !filled || ready;

    assign valid = filled;
    assign step = offered && moves;

    always_ff @(posedge ap_clk) begin
        if (!ap_rst_n) filled <= 1'b0;
        else if (moves) filled <= offered && complete;
    end

    always_ff @(posedge ap_clk) if (step) taps[(TAPS-1)*BITS +: BITS] <= column;

    if (TAPS > 1 && FOLDS == 1) begin : g_shift
        always_ff @(posedge ap_clk) if (step) taps[0 +: OLDER] <= taps[BITS +: OLDER];
    end else if (TAPS > 1 && FOLDS <= 32) begin : g_small
        localparam int FOLD_BITS = $clog2(FOLDS);
        (* ram_style = "distributed" *) logic [OLDER-1:0] older [FOLDS];
        (* keep *) logic [FOLD_BITS-1:0] here, next;  // the fold in the registers, of the column

        always_ff @(posedge ap_clk) begin
            if (step) begin
                older[here] <= taps[BITS +: OLDER];
                taps[0 +: OLDER] <= older[next];
            end
        end
        always_ff @(posedge ap_clk) begin
            if (!ap_rst_n) begin
                here <= FOLD_BITS'(FOLDS - 1);
                next <= '0;
            end else if (step) begin
                here <= next;
                next <= next == FOLD_BITS'(FOLDS - 1) ? '0 : next + 1'b1;
            end
        end
    end else if (TAPS > 1) begin : g_large
        localparam int FOLD_BITS = $clog2(FOLDS);
        logic [OLDER-1:0] older [FOLDS];
        logic [OLDER-1:0] read_word;                   // of the column's fold
        (* keep *) logic [FOLD_BITS-1:0] here, after;  // the fold in the registers, the one to read

        always_ff @(posedge ap_clk) begin
            if (step) begin
                older[here] <= taps[BITS +: OLDER];
                read_word <= older[after];
                taps[0 +: OLDER] <= read_word;
            end
        end
        always_ff @(posedge ap_clk) begin
            if (!ap_rst_n) begin
                here <= FOLD_BITS'(FOLDS - 1);
                after <= FOLD_BITS'(1);
            end else if (step) begin
                here <= here == FOLD_BITS'(FOLDS - 1) ? '0 : here + 1'b1;
                after <= after == FOLD_BITS'(FOLDS - 1) ? '0 : after + 1'b1;
            end
        end
    end
endmodule

`default_nettype wire
