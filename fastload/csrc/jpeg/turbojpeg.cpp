#include "turbojpeg.h"

#include <dlfcn.h>

#include <cstdlib>
#include <cstring>
#include <mutex>

namespace fastload {
namespace {

// Declarations of turbojpeg.h, which this machine may not have.
constexpr int flag_accurate_dct = 4096, flag_limit_scans = 32768;
constexpr int option_copy_none = 64;
constexpr int pixel_format_rgb = 0;
constexpr int error_warning = 0;

struct Transform {
    struct { int x, y, w, h; } region;
    int operation, options;
    void* data;
    void* filter;
};

struct Library {
    std::string path;
    void* (*init_decompress)();
    void* (*init_transform)();
    int (*destroy)(void*);
    int (*header)(void*, const unsigned char*, unsigned long, int*, int*, int*, int*);
    int (*decompress)(void*, const unsigned char*, unsigned long, unsigned char*, int, int, int, int, int);
    int (*decompress_planes)(void*, const unsigned char*, unsigned long, unsigned char**, int, int*, int, int);
    int (*transform)(void*, const unsigned char*, unsigned long, int, unsigned char**, unsigned long*, Transform*, int);
    void (*free)(unsigned char*);
    char* (*error_text)(void*);
    int (*error_code)(void*);  // since 2.0; null before: warnings cannot be told from errors
};

std::vector<std::string>& extra_candidates() {
    static std::vector<std::string> paths;
    return paths;
}

std::vector<std::string> candidates() {
    std::vector<std::string> paths;
    if (const char* chosen = std::getenv("FASTLOAD_TURBOJPEG"); chosen && *chosen) return {chosen};
    for (const char* name : {"libturbojpeg.so.0", "libturbojpeg.so", "libturbojpeg.dylib",
                             "/opt/homebrew/lib/libturbojpeg.dylib", "/usr/local/lib/libturbojpeg.dylib",
                             "/opt/libjpeg-turbo/lib64/libturbojpeg.so"})
        paths.push_back(name);
    paths.insert(paths.end(), extra_candidates().begin(), extra_candidates().end());
    return paths;
}

template <class Function>
bool find(void* library, const char* name, Function& function) {
    function = reinterpret_cast<Function>(dlsym(library, name));
    return function != nullptr;
}

bool open(const std::string& path, Library& library) {
    void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!handle) return false;
    const bool complete =
        find(handle, "tjInitDecompress", library.init_decompress) &&
        find(handle, "tjInitTransform", library.init_transform) && find(handle, "tjDestroy", library.destroy) &&
        find(handle, "tjDecompressHeader3", library.header) && find(handle, "tjDecompress2", library.decompress) &&
        find(handle, "tjDecompressToYUVPlanes", library.decompress_planes) &&
        find(handle, "tjTransform", library.transform) && find(handle, "tjFree", library.free) &&
        (find(handle, "tjGetErrorStr2", library.error_text) || find(handle, "tjGetErrorStr", library.error_text));
    find(handle, "tjGetErrorCode", library.error_code);
    Dl_info where;
    library.path = complete && dladdr(reinterpret_cast<void*>(library.header), &where) ? where.dli_fname : path;
    return complete;
}

const Library& library() {
    static const Library opened = [] {
        Library library{};
        for (const std::string& path : candidates())
            if (open(path, library)) return library;
        const char* chosen = std::getenv("FASTLOAD_TURBOJPEG");
        throw std::runtime_error(chosen && *chosen
                                     ? "FASTLOAD_TURBOJPEG=" + std::string(chosen) + " is not a usable libturbojpeg"
                                     : std::string("libturbojpeg was not found: `apt-get install libturbojpeg0`, "
                                                   "`brew install jpeg-turbo` or `pip install turbojpeg`"));
    }();
    return opened;
}

// Samples per row of a component as libjpeg-turbo writes it: luma is padded to a whole chroma sample.
int padded(int size, int divisor) { return (size + divisor - 1) / divisor * divisor; }

void check_size(const JpegHeader& header) {
    if (header.width < 1 || header.height < 1) throw JpegError("the image has no pixels");
    if (int64_t{header.width} * header.height > max_pixels())
        throw JpegError("the image is absurdly large: " + std::to_string(header.width) + " x " +
                        std::to_string(header.height) + " pixels, more than FASTLOAD_MAX_PIXELS allows");
}

}  // namespace

void add_turbojpeg_candidates(std::vector<std::string> paths) { extra_candidates() = std::move(paths); }

const std::string& turbojpeg_path() { return library().path; }

JpegDecoder::JpegDecoder() : handle_(library().init_decompress()) {
    if (!handle_) throw std::bad_alloc();
}

JpegDecoder::~JpegDecoder() { library().destroy(handle_); }

std::string JpegDecoder::check(int status) {
    if (status == 0) return "";
    const std::string text = library().error_text(handle_);
    if (!library().error_code || library().error_code(handle_) != error_warning) throw JpegError(text);
    return text;
}

// libjpeg-turbo 3 reads the header once and does not repeat its warnings when the rest is decoded.
std::string JpegDecoder::any_warning(int status) {
    const std::string warning = check(status);
    return warning.empty() ? header_warning_ : warning;
}

JpegHeader JpegDecoder::header(const uint8_t* data, size_t size) {
    try {
        const JpegHeader header = read_header(data, size);
        if (header.subsampling < 0) renew();  // the size may be that of the previous image
        return header;
    } catch (...) {
        renew();
        throw;
    }
}

// After a file with a truncated or damaged header, libjpeg-turbo would continue that one with the next file.
void JpegDecoder::renew() {
    library().destroy(handle_);
    handle_ = library().init_decompress();
}

JpegHeader JpegDecoder::read_header(const uint8_t* data, size_t size) {
    if (!handle_) throw std::bad_alloc();
    JpegHeader header{0, 0, -1, JpegColor::ycbcr};
    int color = -1;
    const int status = library().header(handle_, data, size, &header.width, &header.height, &header.subsampling, &color);
    const bool irregular =  // reported as an error after the size has been read
        status != 0 && header.width > 0 && std::strstr(library().error_text(handle_), "subsampling");
    header_warning_ = irregular ? "" : check(status);
    if (irregular || header.subsampling < 0 || header.subsampling >= subsampling_kinds) header.subsampling = -1;
    if (color >= 0) header.color = static_cast<JpegColor>(color);
    check_size(header);
    return header;
}

std::string JpegDecoder::planes(const uint8_t* data, size_t size, Buffer& buffer, Planes& planes) {
    const JpegHeader header = this->header(data, size);
    if (header.subsampling < 0) throw JpegError("irregular chroma sampling");
    if (header.color == JpegColor::cmyk || header.color == JpegColor::ycck) throw JpegError("four color components");

    planes = {{}, header.subsampling == gray ? 1 : 3, header.width, header.height,
              static_cast<Subsampling>(header.subsampling), header.color == JpegColor::rgb};
    const int dx = chroma_divisor_x[header.subsampling], dy = chroma_divisor_y[header.subsampling];
    size_t offsets[3], total = 0;
    int strides[3] = {};
    for (int c = 0; c < planes.count; ++c) {
        const int width = padded(header.width, dx) / (c ? dx : 1), height = padded(header.height, dy) / (c ? dy : 1);
        strides[c] = (width + 63) / 64 * 64;
        offsets[c] = total;
        total += size_t(strides[c]) * height;
        planes.plane[c].width = c ? width : header.width;
        planes.plane[c].height = c ? height : header.height;
        planes.plane[c].stride = strides[c];
    }
    uint8_t* const base = buffer.ensure(total + plane_slack);
    unsigned char* rows[3] = {};
    for (int c = 0; c < planes.count; ++c) planes.plane[c].data = rows[c] = base + offsets[c];
    return any_warning(library().decompress_planes(handle_, data, size, rows, header.width, strides, header.height,
                                                   flag_accurate_dct | flag_limit_scans));
}

std::string JpegDecoder::rgb(const uint8_t* data, size_t size, const JpegHeader& header, uint8_t* rgb) {
    return any_warning(library().decompress(handle_, data, size, rgb, header.width, 3 * header.width, header.height,
                                            pixel_format_rgb, flag_accurate_dct | flag_limit_scans));
}

std::vector<uint8_t> jpeg_transform(const uint8_t* data, size_t size) {
    JpegDecoder().header(data, size);  // refuses images that are too large
    const Library& lib = library();
    std::unique_ptr<void, int (*)(void*)> handle(lib.init_transform(), lib.destroy);
    if (!handle) throw std::bad_alloc();
    Transform transform{};
    transform.options = option_copy_none;
    unsigned char* output = nullptr;
    unsigned long length = 0;
    const int status = lib.transform(handle.get(), data, size, 1, &output, &length, &transform, flag_limit_scans);
    std::unique_ptr<unsigned char, void (*)(unsigned char*)> owner(output, lib.free);
    if (status != 0) throw JpegError(lib.error_text(handle.get()));
    return {output, output + length};
}

}  // namespace fastload
