// The top function: a frame from its streams, again and again.
#include "selective_scan.hpp"

void selective_scan(selective_scan_core::ChannelStream& in0_V,
                    selective_scan_core::ChannelStream& in1_V,
                    selective_scan_core::StateStream& in2_V, selective_scan_core::StateStream& in3_V,
                    selective_scan_core::Result<false>::Stream& out0_V) {
    // AXI streams of whole bytes, and no start or done: the streams alone decide when it runs
#pragma HLS INTERFACE mode=axis port=in0_V
#pragma HLS INTERFACE mode=axis port=in1_V
#pragma HLS INTERFACE mode=axis port=in2_V
#pragma HLS INTERFACE mode=axis port=in3_V
#pragma HLS INTERFACE mode=axis port=out0_V
#pragma HLS INTERFACE mode=ap_ctrl_none port=return
    selective_scan_core::frame<false>(in0_V, in1_V, in2_V, in3_V, out0_V);
}
