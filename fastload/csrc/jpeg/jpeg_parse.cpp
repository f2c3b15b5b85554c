#include "jpeg_parse.h"

#include <algorithm>
#include <climits>
#include <cstring>
#include <string>

#include "jpeg_scan.h"
#include "turbojpeg.h"

namespace fastload {
namespace {

enum Marker : int {
    sof0 = 0xc0, sof1 = 0xc1, dht = 0xc4, jpg = 0xc8, sof15 = 0xcf, dac = 0xcc, rst0 = 0xd0, rst7 = 0xd7, soi = 0xd8,
    eoi = 0xd9, sos = 0xda, dqt = 0xdb, dnl = 0xdc, dri = 0xdd, app0 = 0xe0, app14 = 0xee, app15 = 0xef, com = 0xfe,
    tem = 0x01,
};

bool is_frame_header(int marker) {
    return marker >= sof0 && marker <= sof15 && marker != dht && marker != jpg && marker != dac;
}

int ceil_div(int64_t a, int64_t b) { return int((a + b - 1) / b); }

// The contents of a marker segment, with checked reads.
class Segment {
public:
    Segment(const uint8_t* data, size_t size) : data_(data), size_(size) {}
    size_t left() const { return size_ - position_; }
    const uint8_t* take(size_t count) {
        if (count > left()) throw JpegError("a marker segment is too short");
        position_ += count;
        return data_ + position_ - count;
    }
    int byte() { return *take(1); }
    int word() {
        const uint8_t* p = take(2);
        return p[0] << 8 | p[1];
    }

private:
    const uint8_t* data_;
    size_t size_, position_ = 0;
};

// Steps from marker to marker.
class MarkerReader {
public:
    MarkerReader(const uint8_t* data, size_t size) : data_(data), size_(size) {
        if (size < 2 || data[0] != 0xff || data[1] != soi) throw JpegError("not a JPEG");
    }

    int next() {
        if (position_ >= size_ || data_[position_] != 0xff) throw JpegError("no marker where one is due");
        while (position_ < size_ && data_[position_] == 0xff) ++position_;
        if (position_ >= size_) throw JpegError("the file ends before its end marker");
        return data_[position_++];
    }

    Segment segment() {
        if (size_ - position_ < 2) throw JpegError("the file ends within a marker segment");
        const size_t length = size_t(data_[position_]) << 8 | data_[position_ + 1];
        if (length < 2 || length > size_ - position_) throw JpegError("a marker segment of impossible length");
        position_ += length;
        return {data_ + position_ - length + 2, length - 2};
    }

    size_t position() const { return position_; }
    void seek(size_t position) { position_ = position; }

private:
    const uint8_t* data_;
    size_t size_, position_ = 2;
};

}  // namespace

// State that the next image can reuse.
struct JpegParser::Tables {
    explicit Tables(const Kernels& kernels) : scan(kernels) {}
    JpegHuffmanTable huffman[2][4];
    ScanDecoder scan;
};

namespace {

class Parser {
public:
    Parser(const uint8_t* data, size_t size, JpegHuffmanTable (&huffman)[2][4], ScanDecoder& scan, BlockSink& sink)
        : data_(data), size_(size), reader_(data, size), huffman_(huffman), scan_(scan), sink_(sink) {
        for (auto& kind : huffman_)
            for (JpegHuffmanTable& table : kind) table.forget();
    }

    JpegCoefficients run() {
        for (int marker; (marker = reader_.next()) != eoi;) {
            if (marker == tem) continue;
            if (marker == soi || (marker >= rst0 && marker <= rst7)) throw JpegError("a marker out of place");
            Segment segment = reader_.segment();
            read(marker, segment);
        }
        if (image_.components.empty()) throw JpegError("a JPEG without a picture");
        for (bool seen : coded_)
            if (!seen) throw JpegError("a color component is missing");
        return std::move(image_);
    }

private:
    void read(int marker, Segment& segment) {
        if (is_frame_header(marker)) return frame(marker, segment);
        switch (marker) {
            case dqt:
                return quantisation_tables(segment);
            case dht:
                return huffman_tables(segment);
            case dri:
                restart_interval_ = segment.word();
                return nothing_left(segment);
            case sos:
                return scan(segment);
            case app0:
                return jfif_header(segment);
            case app14:
                if (segment.left() >= 12 && std::memcmp(segment.take(5), "Adobe", 5) == 0)
                    adobe_transform_ = segment.take(7)[6];
                return;
        }
        if (marker != dnl && marker != com && (marker < app0 || marker > app15)) throw JpegError("an unknown marker");
    }

    void jfif_header(Segment& segment) {
        if (segment.left() < 14 || std::memcmp(segment.take(5), "JFIF", 5) != 0) return;
        if (segment.byte() != 1) throw JpegError("an unknown version of JFIF");
        jfif_ = true;
    }

    static void nothing_left(const Segment& segment) {
        if (segment.left()) throw JpegError("a marker segment is too long");
    }

    void quantisation_tables(Segment& segment) {
        while (segment.left()) {
            const int kind = segment.byte(), table = kind & 15;
            if (table > 3) throw JpegError("a quantisation table numbered beyond 3");
            for (int k = 0; k < 64; ++k)
                quant_[table][zigzag_to_natural[k]] = uint16_t(kind >> 4 ? segment.word() : segment.byte());
            quant_defined_[table] = true;
        }
    }

    void huffman_tables(Segment& segment) {
        while (segment.left()) {
            const int kind = segment.byte();
            const uint8_t* counts = segment.take(16);
            int total = 0;
            for (int i = 0; i < 16; ++i) total += counts[i];
            if ((kind & 0xef) > 3 || total > 256) throw JpegError("an impossible Huffman table");
            const auto use = kind >> 4 ? JpegHuffmanTable::ac : JpegHuffmanTable::dc;
            huffman_[use][kind & 3].define(use, counts, segment.take(size_t(total)), total);
        }
    }

    void frame(int marker, Segment& segment) {
        if (!image_.components.empty()) throw JpegError("more than one frame");
        if (marker > sof1) throw JpegError("a progressive, arithmetic-coded or lossless JPEG");
        if (segment.byte() != 8) throw JpegError("not 8 bits a sample");
        image_.height = segment.word();
        image_.width = segment.word();
        if (image_.width < 1 || image_.height < 1) throw JpegError("the image has no pixels");
        if (image_.width > max_side || image_.height > max_side) throw JpegError("the image is absurdly large");
        if (int64_t{image_.width} * image_.height > max_pixels())
            throw JpegError("the image is absurdly large: more pixels than FASTLOAD_MAX_PIXELS allows");
        const int count = segment.byte();
        if (count != 1 && count != 3) throw JpegError(std::to_string(count) + " color components, not 1 or 3");
        for (int c = 0; c < count; ++c) {
            const int id = segment.byte(), factors = segment.byte(), table = segment.byte();
            const int h = factors >> 4, v = factors & 15;
            if (h < 1 || h > 4 || v < 1 || v > 4) throw JpegError("impossible sampling factors");
            if (table > 3) throw JpegError("a quantisation table numbered beyond 3");
            image_.components.push_back({id, h, v, table, 0, 0, 0, 0, {}, {}});
        }
        nothing_left(segment);
        coded_.assign(size_t(count), false);
        set_subsampling();
        set_sizes();
    }

    void set_subsampling() {
        const std::vector<JpegComponent>& part = image_.components;
        if (part.size() == 1) {
            image_.subsampling = gray;
            return;
        }
        for (int kind = 0; usual_factors() && kind < subsampling_kinds; ++kind)
            if (kind != gray && part[0].h == part[1].h * chroma_divisor_x[kind] &&
                part[0].v == part[1].v * chroma_divisor_y[kind]) {
                image_.subsampling = static_cast<Subsampling>(kind);
                return;
            }
        throw JpegError("irregular chroma sampling");
    }

    // TurboJPEG identifies samplings by these factors.
    bool usual_factors() const {
        const std::vector<JpegComponent>& part = image_.components;
        const int h = part[1].h, v = part[1].v;
        if (part[2].h != h || part[2].v != v) return false;
        const bool all_alike = part[0].h == h && part[0].v == v && h * v <= 3;
        return h * v == 1 || all_alike || (part[0].h == 2 && part[0].v == 2 && h * v == 2);
    }

    void set_sizes() {
        const int max_h = image_.components[0].h, max_v = image_.components[0].v;
        size_t blocks = 0;
        for (JpegComponent& part : image_.components) {
            part.width = ceil_div(int64_t{image_.width} * part.h, max_h);
            part.height = ceil_div(int64_t{image_.height} * part.v, max_v);
            part.blocks_w = ceil_div(part.width, 8);
            part.blocks_h = ceil_div(part.height, 8);
            blocks += size_t(part.blocks_w) * part.blocks_h;
        }
        // A block takes at least two bits, so a small file cannot ask for much memory.
        if (blocks / 4 > size_) throw JpegError("the file ends within the picture");
        sink_.begin(image_);
    }

    void scan(Segment& segment) {
        if (std::none_of(coded_.begin(), coded_.end(), [](bool seen) { return seen; })) image_.rgb = is_rgb();
        Scan scan{{}, 0, 0, restart_interval_};
        const int count = segment.byte();
        if (count < 1 || size_t(count) > image_.components.size()) throw JpegError("an impossible scan header");
        int blocks_in_mcu = 0;
        for (int i = 0; i < count; ++i) {
            const int id = segment.byte(), tables = segment.byte();
            const size_t number = begin(id);
            const JpegComponent& part = image_.components[number];
            const bool alone = count == 1;
            scan.components.push_back({number, &part, alone ? 1 : part.h, alone ? 1 : part.v,
                                       &table(JpegHuffmanTable::dc, tables >> 4),
                                       &table(JpegHuffmanTable::ac, tables & 15)});
            blocks_in_mcu += part.h * part.v;
        }
        if (segment.byte() != 0 || segment.byte() != 63 || segment.byte() != 0)
            throw JpegError("a scan of some of the coefficients");
        nothing_left(segment);
        if (count > 1 && blocks_in_mcu > 10) throw JpegError("more than ten blocks in an MCU");
        scan.mcus_w = ceil_div(image_.width, image_.components[0].h * 8);
        scan.mcus_h = ceil_div(image_.height, image_.components[0].v * 8);
        reader_.seek(scan_.run(scan, data_, size_, reader_.position(), sink_));
    }

    // Marks a component as coded. Its quantization table is the one defined at this point (T.81, B.2.4.1).
    size_t begin(int id) {
        for (size_t c = 0; c < image_.components.size(); ++c) {
            JpegComponent& part = image_.components[c];
            if (part.id != id) continue;
            if (coded_[c]) throw JpegError("a color component is coded twice");
            if (!quant_defined_[part.table]) throw JpegError("a quantisation table is missing");
            coded_[c] = true;
            std::copy_n(quant_[part.table], 64, part.quant);
            sink_.begin_component(c, part);
            return c;
        }
        throw JpegError("a scan of an unknown color component");
    }

    const JpegHuffmanTable& table(int kind, int number) {
        if (number > 3 || !huffman_[kind][number].defined()) throw JpegError("a Huffman table is missing");
        if (kind == JpegHuffmanTable::dc && huffman_[kind][number].absurd_dc())
            throw JpegError("a DC difference of more than 15 bits");
        return huffman_[kind][number];
    }

    // Guesses the colors of three components like libjpeg, from the markers before the first scan.
    bool is_rgb() const {
        if (image_.components.size() != 3 || jfif_) return false;
        if (adobe_transform_ > 1) throw JpegError("an unknown color transform");
        if (adobe_transform_ >= 0) return adobe_transform_ == 0;
        return image_.components[0].id == 'R' && image_.components[1].id == 'G' && image_.components[2].id == 'B';
    }

    const uint8_t* data_;
    size_t size_;
    MarkerReader reader_;
    JpegCoefficients image_{};
    std::vector<bool> coded_;
    uint16_t quant_[4][64] = {};
    bool quant_defined_[4] = {};
    JpegHuffmanTable (&huffman_)[2][4];
    ScanDecoder& scan_;
    BlockSink& sink_;
    int restart_interval_ = 0, adobe_transform_ = -1;
    bool jfif_ = false;
};

// Keeps the coefficients of a whole image, in natural order.
class Collector final : public BlockSink {
public:
    const uint8_t* order() const override { return zigzag_to_natural; }

    void begin(const JpegCoefficients& image) override {
        for (const JpegComponent& part : image.components) {
            coefficients.emplace_back(size_t(part.blocks_w) * part.blocks_h * 64);
            row_.push_back(size_t(part.blocks_w) * 64);
        }
    }

    int rows(size_t) const override { return INT_MAX; }

    void begin_component(size_t, const JpegComponent&) override {}

    void put(size_t number, int y, int x, int count, const int16_t* blocks) override {
        std::copy_n(blocks, count * 64, coefficients[number].data() + row_[number] * size_t(y) + x * 64);
    }

    std::vector<std::vector<int16_t>> coefficients;

private:
    std::vector<size_t> row_;
};

}  // namespace

bool is_huffman_sequential(const uint8_t* data, size_t size) {
    MarkerReader reader(data, size);
    for (;;) {
        const int marker = reader.next();
        if (is_frame_header(marker)) return marker <= sof1;
        if (marker == eoi || marker == sos) throw JpegError("a JPEG without a picture");
        if (marker != tem) reader.segment();
    }
}

JpegParser::JpegParser(const Kernels& kernels) : tables_(new Tables(kernels)) {}
JpegParser::~JpegParser() = default;

JpegCoefficients JpegParser::parse(const uint8_t* data, size_t size, BlockSink& sink) {
    return Parser(data, size, tables_->huffman, tables_->scan, sink).run();
}

JpegCoefficients parse_jpeg(const uint8_t* data, size_t size) {
    Collector sink;
    JpegCoefficients image = JpegParser(kernels()).parse(data, size, sink);
    for (size_t c = 0; c < image.components.size(); ++c)
        image.components[c].coefficients = std::move(sink.coefficients[c]);
    return image;
}

}  // namespace fastload
