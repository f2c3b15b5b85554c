#include "dct_format.h"

namespace fastload {
namespace {

class Reader {
public:
    Reader(const uint8_t* data, size_t size) : data_(data), left_(size) {}

    const uint8_t* take(size_t count) {
        if (count > left_) throw DctError("the packed image is cut short");
        const uint8_t* taken = data_;
        data_ += count;
        left_ -= count;
        return taken;
    }
    int byte() { return *take(1); }
    int word() {
        const uint8_t* p = take(2);
        return p[0] | p[1] << 8;
    }
    uint32_t dword() {
        const uint8_t* p = take(4);
        return p[0] | uint32_t{p[1]} << 8 | uint32_t{p[2]} << 16 | uint32_t{p[3]} << 24;
    }
    size_t left() const { return left_; }

private:
    const uint8_t* data_;
    size_t left_;
};

void require(bool condition, const char* what) {
    if (!condition) throw DctError(what);
}

DctInfo read_info(Reader& reader) {
    require(reader.dword() == dct_magic, "not a packed image");
    DctInfo info{};
    const int entropy = reader.byte(), subsampling = reader.byte(), rgb = reader.byte();
    require(entropy <= 1 && subsampling < subsampling_kinds && rgb <= 1, "an impossible header of a packed image");
    info.entropy = entropy != 0;
    info.subsampling = static_cast<Subsampling>(subsampling);
    info.rgb = rgb != 0;
    info.components = subsampling == gray ? 1 : 3;
    return info;
}

void read_size(Reader& reader, DctInfo& info) {
    const uint32_t width = reader.dword(), height = reader.dword();
    require(width >= 1 && width <= 65535 && height >= 1 && height <= 65535, "an impossible size of a packed image");
    require(int64_t{width} * height <= max_pixels(),
            "an impossible size of a packed image: more pixels than FASTLOAD_MAX_PIXELS allows");
    info.width = int(width);
    info.height = int(height);
}

void read_quantisation(Reader& reader, int tables, DctRecord& record) {
    const int number[3] = {reader.byte(), reader.byte(), reader.byte()};
    reader.byte();
    require(tables >= 1 && tables <= 3, "an impossible number of quantisation tables");
    uint16_t quant[3][64];
    for (int t = 0; t < tables; ++t)
        for (uint16_t& q : quant[t]) q = uint16_t(reader.word());
    for (int c = 0; c < record.info.components; ++c) {
        require(number[c] < tables, "a quantisation table is missing");
        for (int i = 0; i < 64; ++i) record.component[c].quant[i] = quant[number[c]][i];
    }
}

void set_sizes(DctRecord& record) {
    for (int c = 0; c < record.info.components; ++c) {
        const int dx = c ? chroma_divisor_x[record.info.subsampling] : 1;
        const int dy = c ? chroma_divisor_y[record.info.subsampling] : 1;
        DctComponent& component = record.component[c];
        component.width = (record.info.width + dx - 1) / dx;
        component.height = (record.info.height + dy - 1) / dy;
        component.blocks_w = (component.width + 7) / 8;
        component.blocks_h = (component.height + 7) / 8;
    }
}

DctStream read_stream(Reader& reader, size_t count) {
    const uint32_t size_and_kind = reader.dword();
    DctStream stream{nullptr, size_and_kind >> 1, count, (size_and_kind & 1) != 0};
    // A Huffman code has a bit at least, so a small record cannot ask for much memory.
    require(stream.coded ? count / 8 <= stream.size : count == stream.size, "a stream of impossible size");
    stream.data = reader.take(stream.size);
    return stream;
}

DctSection read_section(Reader& reader, const DctComponent* component, int components, bool entropy) {
    size_t blocks = 0;
    for (int c = 0; c < components; ++c) blocks += size_t(component[c].blocks_w) * component[c].blocks_h;
    DctSection section{};
    section.components = components;
    const size_t masks = reader.dword(), values = reader.dword(), rest = reader.dword();
    section.presence = read_stream(reader, blocks);
    section.dc = read_stream(reader, blocks);
    section.masks = read_stream(reader, masks);
    section.values = read_stream(reader, values);
    if (entropy) section.signs = reader.take((values + 7) / 8);
    section.rest = {reader.take(rest), rest, rest, false};
    return section;
}

}  // namespace

DctRecord read_dct_record(const uint8_t* data, size_t size) {
    Reader reader(data, size);
    DctRecord record{};
    record.info = read_info(reader);
    const int tables = reader.byte();
    read_size(reader, record.info);
    read_quantisation(reader, tables, record);
    set_sizes(record);
    record.sections = record.info.components == 1 ? 1 : 2;
    record.section[0] = read_section(reader, &record.component[0], 1, record.info.entropy);
    if (record.sections == 2)
        record.section[1] = read_section(reader, &record.component[1], 2, record.info.entropy);
    require(reader.left() == dct_padding, "a packed image of impossible length");
    return record;
}

DctInfo dct_info(const uint8_t* data, size_t size) { return read_dct_record(data, size).info; }

}  // namespace fastload
