// One AXI4 master port of 64 bits for CLIENTS queues in DRAM (dram_fifo.sv).
//
// A request is a slot of BURST * 8 bytes from base on, and the beats of it: one INCR burst. base is a
// multiple of 4096, so that no burst crosses a border of 4096 bytes. Requests are taken in turn, one
// client a cycle, which is little beside the beats of a burst. All have one ID, so that answers come in
// order: a small memory for each direction holds whose they are, at most ORDER on their way.
// Answers are always taken, because a client has room for what it asked for; the data of a burst is
// whole when it is asked for, and does not wait for its address to be taken (AXI4, A3.3.1).
// An answer that is not OKAY, or of another ID, sets error until the reset.
// Every output is a flip-flop or one of a register; no ready passes through to a valid or a ready.
`default_nettype none

module dram_port #(
    parameter int CLIENTS      = 1,
    parameter int BURST        = 64,  // beats of a slot
    parameter int SLOT_BITS    = 24,
    parameter int ORDER        = 16,  // a power of two
    parameter int ADDRESS_BITS = 40
) (
    input  wire                           ap_clk,
    input  wire                           ap_rst_n,
    input  wire  [ADDRESS_BITS-1:0]       dram_base,  // constant after the reset
    output logic                          dram_error,

    // client 0 in the low bits
    input  wire  [CLIENTS*SLOT_BITS-1:0]  write_slot,
    input  wire  [CLIENTS*9-1:0]          write_beats,
    input  wire  [CLIENTS-1:0]            write_valid,
    output logic [CLIENTS-1:0]            write_ready,
    input  wire  [CLIENTS*64-1:0]         write_data,
    input  wire  [CLIENTS-1:0]            write_last,
    input  wire  [CLIENTS-1:0]            write_data_valid,
    output logic [CLIENTS-1:0]            write_data_ready,
    output logic [CLIENTS-1:0]            written,
    input  wire  [CLIENTS*SLOT_BITS-1:0]  read_slot,
    input  wire  [CLIENTS*9-1:0]          read_beats,
    input  wire  [CLIENTS-1:0]            read_valid,
    output logic [CLIENTS-1:0]            read_ready,
    output logic [CLIENTS*64-1:0]         read_data,
    output logic [CLIENTS-1:0]            read_last,
    output logic [CLIENTS-1:0]            read_data_valid,

    output logic [0:0]                    m_axi_awid,
    output logic [ADDRESS_BITS-1:0]       m_axi_awaddr,
    output logic [7:0]                    m_axi_awlen,
    output logic [2:0]                    m_axi_awsize,
    output logic [1:0]                    m_axi_awburst,
    output logic [3:0]                    m_axi_awcache,
    output logic [2:0]                    m_axi_awprot,
    output logic                          m_axi_awvalid,
    input  wire                           m_axi_awready,
    output logic [63:0]                   m_axi_wdata,
    output logic [7:0]                    m_axi_wstrb,
    output logic                          m_axi_wlast,
    output logic                          m_axi_wvalid,
    input  wire                           m_axi_wready,
    input  wire  [0:0]                    m_axi_bid,
    input  wire  [1:0]                    m_axi_bresp,
    input  wire                           m_axi_bvalid,
    output logic                          m_axi_bready,
    output logic [0:0]                    m_axi_arid,
    output logic [ADDRESS_BITS-1:0]       m_axi_araddr,
    output logic [7:0]                    m_axi_arlen,
    output logic [2:0]                    m_axi_arsize,
    output logic [1:0]                    m_axi_arburst,
    output logic [3:0]                    m_axi_arcache,
    output logic [2:0]                    m_axi_arprot,
    output logic                          m_axi_arvalid,
    input  wire                           m_axi_arready,
    input  wire  [0:0]                    m_axi_rid,
    input  wire  [63:0]                   m_axi_rdata,
    input  wire  [1:0]                    m_axi_rresp,
    input  wire                           m_axi_rlast,
    input  wire                           m_axi_rvalid,
    output logic                          m_axi_rready
);
    if (CLIENTS < 1 || (ORDER & (ORDER - 1)) != 0)
        $error("dram_port: CLIENTS=%0d, ORDER=%0d, expected 1 or more and a power of two",
               CLIENTS, ORDER);

    localparam int CLIENT_BITS = CLIENTS > 1 ? $clog2(CLIENTS) : 1;
    localparam int PLACE_BITS = $clog2(ORDER);
    localparam int SLOT_SHIFT = $clog2(BURST * 8);
    typedef logic [CLIENT_BITS-1:0] client_t;
    typedef logic [PLACE_BITS:0] order_t;  // a place, and whether the round is odd

    function automatic client_t after(input client_t client);
        return client == client_t'(CLIENTS - 1) ? '0 : client + 1'b1;
    endfunction
    function automatic logic [CLIENTS-1:0] only(input client_t client);
        return CLIENTS'(1) << client;
    endfunction

    // of all bursts: incrementing, 8 bytes a beat, one ID, modifiable and bufferable, not secure
    assign {m_axi_awid, m_axi_awsize, m_axi_awburst, m_axi_awcache, m_axi_awprot} =
        {1'b0, 3'd3, 2'b01, 4'b0011, 3'b010};
    assign {m_axi_arid, m_axi_arsize, m_axi_arburst, m_axi_arcache, m_axi_arprot} =
        {1'b0, 3'd3, 2'b01, 4'b0011, 3'b010};
    assign m_axi_wstrb = '1;
    assign m_axi_bready = 1'b1;
    assign m_axi_rready = 1'b1;

    // requests to write
    client_t write_order[ORDER];
    order_t asked_writes, sent_writes, done_writes;
    client_t write_turn;
    logic write_room;
    wire [CLIENTS-1:0] takes_write = only(write_turn) & {CLIENTS{!m_axi_awvalid && write_room}};
    wire take_write = |(takes_write & write_valid);
    assign write_ready = takes_write;
    always_ff @(posedge ap_clk) begin
        if (take_write) begin
            write_order[asked_writes[PLACE_BITS-1:0]] <= write_turn;
            m_axi_awaddr <= dram_base +
                (ADDRESS_BITS'(write_slot[write_turn*SLOT_BITS+:SLOT_BITS]) << SLOT_SHIFT);
            m_axi_awlen <= 8'(write_beats[write_turn*9+:9] - 1'b1);
        end
    end
    always_ff @(posedge ap_clk) begin
        if (!ap_rst_n) begin
            asked_writes <= '0;
            write_turn <= '0;
            write_room <= 1'b1;
            m_axi_awvalid <= 1'b0;
        end else begin
            // a cycle late: the address itself forbids the next request
            write_room <= asked_writes - done_writes != order_t'(ORDER);
            if (take_write) asked_writes <= asked_writes + 1'b1;
            if (!m_axi_awvalid) write_turn <= after(write_turn);
            if (take_write) m_axi_awvalid <= 1'b1;
            else if (m_axi_awready) m_axi_awvalid <= 1'b0;
        end
    end

    // data to write, in the order of the requests
    client_t sender;
    logic sends, taken;
    wire send = sends && write_data_valid[sender];
    wire sent_last = send && taken && write_last[sender];
    assign write_data_ready = only(sender) & {CLIENTS{sends && taken}};
    always_ff @(posedge ap_clk) begin
        if (!ap_rst_n) begin
            sends <= 1'b0;
            sent_writes <= '0;
        end else if (!sends) begin
            sends <= sent_writes != asked_writes;
        end else if (sent_last) begin
            sends <= 1'b0;
            sent_writes <= sent_writes + 1'b1;
        end
    end
    always_ff @(posedge ap_clk) if (!sends) sender <= write_order[sent_writes[PLACE_BITS-1:0]];
    logic [71:0] word;
    stream_register #(.BITS(65)) data_register (
        .ap_clk, .ap_rst_n,
        .in0_V_tdata({7'b0, write_last[sender], write_data[sender*64+:64]}),
        .in0_V_tvalid(send), .in0_V_tready(taken),
        .out0_V_tdata(word), .out0_V_tvalid(m_axi_wvalid), .out0_V_tready(m_axi_wready)
    );
    assign {m_axi_wlast, m_axi_wdata} = word[64:0];
    always_ff @(posedge ap_clk) begin
        if (!ap_rst_n) begin
            written <= '0;
            done_writes <= '0;
        end else begin
            written <= only(write_order[done_writes[PLACE_BITS-1:0]]) & {CLIENTS{m_axi_bvalid}};
            if (m_axi_bvalid) done_writes <= done_writes + 1'b1;
        end
    end

    // requests to read
    client_t read_order[ORDER];
    order_t asked_reads, done_reads;
    client_t read_turn;
    logic read_room;
    wire [CLIENTS-1:0] takes_read = only(read_turn) & {CLIENTS{!m_axi_arvalid && read_room}};
    wire take_read = |(takes_read & read_valid);
    assign read_ready = takes_read;
    always_ff @(posedge ap_clk) begin
        if (take_read) begin
            read_order[asked_reads[PLACE_BITS-1:0]] <= read_turn;
            m_axi_araddr <= dram_base +
                (ADDRESS_BITS'(read_slot[read_turn*SLOT_BITS+:SLOT_BITS]) << SLOT_SHIFT);
            m_axi_arlen <= 8'(read_beats[read_turn*9+:9] - 1'b1);
        end
    end
    always_ff @(posedge ap_clk) begin
        if (!ap_rst_n) begin
            asked_reads <= '0;
            read_turn <= '0;
            read_room <= 1'b1;
            m_axi_arvalid <= 1'b0;
        end else begin
            read_room <= asked_reads - done_reads != order_t'(ORDER);
            if (take_read) asked_reads <= asked_reads + 1'b1;
            if (!m_axi_arvalid) read_turn <= after(read_turn);
            if (take_read) m_axi_arvalid <= 1'b1;
            else if (m_axi_arready) m_axi_arvalid <= 1'b0;
        end
    end

    // data that was read
    logic [63:0] came;
    logic came_last;
    logic [CLIENTS-1:0] came_valid;
    always_ff @(posedge ap_clk) {came_last, came} <= {m_axi_rlast, m_axi_rdata};
    always_ff @(posedge ap_clk) begin
        if (!ap_rst_n) begin
            came_valid <= '0;
            done_reads <= '0;
        end else begin
            came_valid <= only(read_order[done_reads[PLACE_BITS-1:0]]) & {CLIENTS{m_axi_rvalid}};
            if (m_axi_rvalid && m_axi_rlast) done_reads <= done_reads + 1'b1;
        end
    end
    assign read_data = {CLIENTS{came}};
    assign read_last = {CLIENTS{came_last}};
    assign read_data_valid = came_valid;

    always_ff @(posedge ap_clk) begin
        if (!ap_rst_n) dram_error <= 1'b0;
        else if ((m_axi_bvalid && {m_axi_bid, m_axi_bresp} != '0) ||
                 (m_axi_rvalid && {m_axi_rid, m_axi_rresp} != '0)) dram_error <= 1'b1;
    end
endmodule

`default_nettype wire
