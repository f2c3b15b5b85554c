#include "render.h"

#include <algorithm>
#include <cstring>

namespace fastload {
namespace {

// Writes row y of a canvas from packed RGB bytes. `channels` is scratch memory of the same size.
void store(const Canvas& canvas, int y, const uint8_t* rgb, uint8_t* channels, uint8_t* out) {
    const PixelFormat& format = *canvas.format;
    const Kernels& chosen = kernels();
    const size_t width = size_t(canvas.width), size = width * format.sample_bytes();
    if (!format.planar) return chosen.convert(rgb, 3 * width, format, Channels::all, out + 3 * size * y);
    uint8_t* const rows[3] = {channels, channels + width, channels + 2 * width};
    chosen.split(rgb, canvas.width, rows);
    for (int c = 0; c < 3; ++c) {
        uint8_t* const to = out + size * (size_t(canvas.height) * c + y);
        format.sample == Sample::u8 ? chosen.stream(to, rows[c], width)
                                    : chosen.convert(rows[c], width, format, Channels(c), to);
    }
}

// Draws lines of a canvas whose rows are not all plain.
class Layers {
public:
    Layers(std::vector<PlacedRow>& rows, size_t count, uint8_t* layer_line)
        : rows_(rows), count_(count), layer_line_(layer_line) {}

    // Computes the tables that depend on what is drawn before their rows. `blank` is a line of the fill color, `line`
    // scratch memory.
    void compute_tables(int height, const uint8_t* blank, size_t size, uint8_t* line) {
        for (size_t i = 0; i < count_; ++i) {
            if (!rows_[i].computes_table()) continue;
            Histogram histogram{};
            for (int y = 0; y < height; ++y) {
                const Span span = rows_[i].span(y);
                if (span.empty()) continue;
                std::memcpy(line, blank, size);
                const uint8_t* const under = draw_under(y, i, line);
                const Span seen = under == line ? span : span.within(rows_[first_of_layer(i)].span(y));
                if (!seen.empty()) rows_[i].count(seen, under, histogram);
            }
            rows_[i].set_table(histogram);
        }
    }

    // Draws line y over `line`.
    void draw(int y, uint8_t* line) { draw(y, count_, line); }

private:
    // What is drawn before a row: on the canvas, or on the row's layer.
    const uint8_t* draw_under(int y, size_t row, uint8_t* line) {
        const size_t first = first_of_layer(row);
        if (rows_[row].placement().layer == 0) {
            draw(y, row, line);
            return line;
        }
        draw_content(y, first, row, rows_[first].span(y));
        return layer_line_;
    }

    void draw(int y, size_t count, uint8_t* line) {
        for (size_t i = 0; i < count;) {
            const size_t end = std::min(end_of_layer(i), count);
            if (rows_[i].placement().layer)
                draw_layer(y, i, end, line);
            else
                draw_rows(y, i, end, {0, INT32_MAX}, line);
            i = end;
        }
    }

    size_t first_of_layer(size_t row) const {
        while (row > 0 && rows_[row - 1].placement().layer == rows_[row].placement().layer) --row;
        return row;
    }

    size_t end_of_layer(size_t first) const {
        size_t end = first + 1;
        while (end < count_ && rows_[end].placement().layer == rows_[first].placement().layer) ++end;
        return end;
    }

    void draw_rows(int y, size_t first, size_t end, Span limit, uint8_t* line) {
        for (size_t i = first; i < end; ++i) {
            const Span span = rows_[i].span(y).within(limit);
            if (!span.empty()) rows_[i].draw(y, span, line);
        }
    }

    // The first row is the layer's ground, as large as the layer and as opaque.
    void draw_layer(int y, size_t first, size_t end, uint8_t* line) {
        const PlacedRow& ground = rows_[first];
        const Span limit = ground.span(y);
        if (limit.empty()) return;
        draw_content(y, first, end, limit);
        const size_t begin = size_t(3) * limit.begin;
        kernels().mix(layer_line_ + begin, ground.placement().alpha, size_t(3) * limit.size(), line + begin);
    }

    void draw_content(int y, size_t first, size_t end, Span limit) {
        if (limit.empty()) return;
        fill_pixels(layer_line_, limit, rows_[first].fill());
        draw_rows(y, first + 1, end, limit, layer_line_);
    }

    std::vector<PlacedRow>& rows_;
    const size_t count_;
    uint8_t* const layer_line_;
};

}  // namespace

void render(const Canvas& canvas, std::vector<PlacedRow>& rows, size_t count, Buffer& line_memory, uint8_t* out) {
    const bool packed = canvas.format->is_packed_bytes();
    const size_t size = size_t(3) * canvas.width;
    uint8_t* const blank = line_memory.ensure(3 * size);
    uint8_t *const line = blank + size, *const channels = line + size;
    const bool plain = std::all_of(rows.begin(), rows.begin() + ptrdiff_t(count),
                                   [](const PlacedRow& row) { return row.placement().is_plain(); });
    Layers layers(rows, count, channels);
    fill_pixels(blank, {0, canvas.width}, canvas.fill);
    layers.compute_tables(canvas.height, blank, size, line);
    std::memcpy(line, blank, size);
    for (int y = 0; y < canvas.height; ++y) {
        int shown = 0;
        const PlacedRow* last = nullptr;
        for (size_t i = 0; i < count; ++i) {
            const int32_t* clip = rows[i].placement().clip;
            if (y == clip[1] + clip[3]) std::memcpy(line + 3 * clip[0], blank, size_t(3) * clip[2]);
            if (y >= clip[1] && y < clip[1] + clip[3]) ++shown, last = &rows[i];
        }
        uint8_t* const to = packed ? out + size * y : nullptr;  // destination, if bytes are stored unconverted
        size_t begin = 0, end = 0;                              // bytes that draw_plain() has written to it
        if (plain || (shown == 1 && last->placement().is_plain())) {
            for (size_t i = 0; i < count; ++i) {
                const int32_t* clip = rows[i].placement().clip;
                if (y < clip[1] || y >= clip[1] + clip[3]) continue;
                const size_t left = size_t(3) * clip[0];
                const int direct = rows[i].draw_plain(y, line + left, to && shown == 1 ? to + left : nullptr);
                if (direct) begin = left, end = left + size_t(3) * direct;
            }
        } else if (shown) {
            std::memcpy(line, blank, size);
            layers.draw(y, line);
        }
        const uint8_t* const from = shown ? line : blank;
        if (!to) {
            store(canvas, y, from, channels, out);
            continue;
        }
        if (begin) kernels().stream(to, from, begin);
        kernels().stream(to + end, from + end, size - end);
    }
}

}  // namespace fastload
