// A libFuzzer target: any bytes, as a JPEG, a record, packed coefficients, an LMDB file and rows of a plan. See fuzz.sh.
#include "meet.h"
#include "rows.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    using namespace fastload;
    const Bytes bytes(data, data + size);
    meet_jpeg(bytes);
    for (Simd level : simd_levels()) meet_sequential(bytes, level);
    meet_record(bytes, false);
    meet_packed(bytes);
    meet_lmdb(bytes);
    NumbersOfBytes numbers(data, size);
    meet_rows(numbers);
    return 0;
}
