// Issues one beat of updates a cycle: for each token all channels, for each channel all states.
//
// x and dt are taken with the last states of their channels, B and C released with the last states
// of the token. A channel is only begun with a credit: a free place in the output queue.
`default_nettype none

module selective_scan_issue #(
    parameter int LENGTH = 1,
    parameter int CHANNEL_FOLDS = 1,
    parameter int STATE_FOLDS = 6
) (
    input  wire  ap_clk,
    input  wire  ap_rst_n,

    input  wire  channels_valid,   // x and dt
    output logic channels_taken,
    input  wire  states_valid,     // B and C
    output logic states_taken,
    input  wire  credit,
    output logic begins,           // a channel: it spends a credit

    output logic issued,
    output logic first_token,
    output logic first_states,
    output logic last_states,
    output logic [(STATE_FOLDS > 1 ? $clog2(STATE_FOLDS) : 1)-1:0]     state_fold,
    output logic [(CHANNEL_FOLDS > 1 ? $clog2(CHANNEL_FOLDS) : 1)-1:0] channel_fold,
    output logic [$clog2(CHANNEL_FOLDS*STATE_FOLDS)-1:0]               address
);
    localparam int STATE_BITS = STATE_FOLDS > 1 ? $clog2(STATE_FOLDS) : 1;
    localparam int CHANNEL_BITS = CHANNEL_FOLDS > 1 ? $clog2(CHANNEL_FOLDS) : 1;
    localparam int TOKEN_BITS = LENGTH > 1 ? $clog2(LENGTH) : 1;

    logic [TOKEN_BITS-1:0] token;
    wire last_channels = channel_fold == CHANNEL_BITS'(CHANNEL_FOLDS - 1);

    assign first_token = token == '0;
    assign first_states = state_fold == '0;
    assign last_states = state_fold == STATE_BITS'(STATE_FOLDS - 1);
    assign issued = channels_valid && states_valid && (!first_states || credit);
    assign begins = issued && first_states;
    assign channels_taken = issued && last_states;
    assign states_taken = issued && last_states && last_channels;

    always_ff @(posedge ap_clk) begin
        if (!ap_rst_n) begin
            state_fold <= '0;
            channel_fold <= '0;
            address <= '0;
            token <= '0;
        end else begin
            if (issued) begin
                state_fold <= last_states ? '0 : state_fold + 1'b1;
                address <= states_taken ? '0 : address + 1'b1;
            end
            if (channels_taken) channel_fold <= last_channels ? '0 : channel_fold + 1'b1;
            if (states_taken) token <= token == TOKEN_BITS'(LENGTH - 1) ? '0 : token + 1'b1;
        end
    end
endmodule

`default_nettype wire
