// A matrix whose weights are loaded at the start, times every vector of a stream: see
// matrix_vector_core.sv. The weights are in UltraRAM (loaded_weights.sv). No vector is multiplied
// before they are whole, whenever it comes.
`default_nettype none

module matrix_vector_loaded #(
    parameter int    MW              = 1,
    parameter int    MH              = 1,
    parameter int    SIMD            = 1,
    parameter int    PE              = 1,
    parameter int    ACTIVATION_BITS = 8,
    parameter bit    SIGNED          = 1,  // of the activations
    parameter int    WEIGHT_BITS     = 8,
    parameter int    SUM_BITS        = 18,
    parameter int    LANES           = 2,
    parameter int    LANE_BITS       = 19,
    parameter int    FIELD_BITS      = 19,
    parameter int    CASCADE         = 1,
    parameter int    PORT_BITS       = 27,
    parameter bit    IN_LUTS         = 0,
    parameter string STYLE           = "ultra",
    parameter int    LOAD_BITS       = 72
) (
    input  wire                                        ap_clk,
    input  wire                                        ap_rst_n,

    input  wire  [((SIMD*ACTIVATION_BITS+7)/8)*8-1:0]  in0_V_tdata,
    input  wire                                        in0_V_tvalid,
    output logic                                       in0_V_tready,

    output logic [((PE*SUM_BITS+7)/8)*8-1:0]           out0_V_tdata,
    output logic                                       out0_V_tvalid,
    input  wire                                        out0_V_tready,

    // the stream that loads, and what of it belongs to the units behind this one
    input  wire  [LOAD_BITS-1:0]                       load_data,
    input  wire                                        load_valid,
    output logic [LOAD_BITS-1:0]                       pass_data,
    output logic                                       pass_valid
);
    localparam int DEPTH = MW / SIMD * (MH / PE);
    localparam int ADDRESS_BITS = DEPTH > 1 ? $clog2(DEPTH) : 1;
    localparam int WORD_BITS = PE * SIMD * WEIGHT_BITS;
    logic [ADDRESS_BITS-1:0] address;
    logic [WORD_BITS-1:0] word;
    logic loaded;

    loaded_weights #(
        .BITS(WORD_BITS), .DEPTH(DEPTH), .LOAD_BITS(LOAD_BITS), .STYLE(STYLE)
    ) weights (
        .ap_clk, .ap_rst_n, .load_data, .load_valid, .pass_data, .pass_valid, .loaded, .address, .word
    );

    matrix_vector_core #(
        .MW(MW), .MH(MH), .SIMD(SIMD), .PE(PE), .ACTIVATION_BITS(ACTIVATION_BITS), .SIGNED(SIGNED),
        .WEIGHT_BITS(WEIGHT_BITS), .SUM_BITS(SUM_BITS), .LANES(LANES), .LANE_BITS(LANE_BITS),
        .FIELD_BITS(FIELD_BITS), .CASCADE(CASCADE), .PORT_BITS(PORT_BITS), .IN_LUTS(IN_LUTS)
    ) core (
        .ap_clk, .ap_rst_n, .in0_V_tdata, .in0_V_tvalid, .in0_V_tready, .out0_V_tdata, .out0_V_tvalid,
        .out0_V_tready, .loaded, .address, .word
    );
endmodule

`default_nettype wire
