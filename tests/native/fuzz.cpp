// A libFuzzer target: any bytes, as a JPEG, a record, packed coefficients and an LMDB file. See fuzz.sh.
#include "meet.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    using namespace fastload;
    const Bytes bytes(data, data + size);
    meet_jpeg(bytes);
    for (Simd level : simd_levels()) meet_sequential(bytes, level);
    meet_record(bytes, false);
    meet_packed(bytes);
    meet_lmdb(bytes);
    return 0;
}
