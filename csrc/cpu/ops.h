// What each SIMD level defines and dispatch.cpp collects.
#pragma once
#include "core/macros.h"
#include "densecrf.h"

DENSECRF_BEGIN

template <class T>
Status make_features(const ImageView<T>& image, int threads, T* features);

template <class T>
Status lattice_build(const LatticeRequest<T>& request, LatticeResult* result);
template <class T>
Status lattice_features_grad(const LatticeRequest<T>& request, const T* grad_weights, T* grad_features);
template <class T>
Status lattice_self(const LatticeView<T>& lattice, int threads, T* diagonal);

template <class T>
size_t filter_workspace(const LatticeView<T>& lattice, int channels, int threads);
template <class T>
Status filter(const LatticeView<T>& lattice, int channels, const T* values, T* out, bool transpose,
              int threads, void* workspace);
template <class T>
Status lattice_norm(const LatticeView<T>& lattice, const T* mask, T power, T* out, int threads,
                    void* workspace);

template <class T>
size_t filter_weights_grad_workspace(const LatticeView<T>& lattice, int channels, int threads);
template <class T>
Status filter_weights_grad(const LatticeView<T>& lattice, int channels, const T* values, const T* grad,
                           T* grad_weights, int threads, void* workspace);

template <class T>
size_t grid_filter_workspace(const GridView<T>& grid, int channels, int threads);
template <class T>
Status grid_filter(const GridView<T>& grid, int channels, const T* values, T* out, int threads,
                   void* workspace);

template <class T>
size_t exact_filter_workspace(const ExactRequest<T>& request);
template <class T>
Status exact_filter(const ExactRequest<T>& request, void* workspace);

template <class T>
size_t mean_field_workspace(const MeanFieldRequest<T>& request);
template <class T>
Status mean_field(MeanFieldRequest<T>& request, void* workspace);
template <class T>
int64_t mean_field_states(const MeanFieldRequest<T>& request);
template <class T>
size_t mean_field_backward_workspace(const MeanFieldGradRequest<T>& request);
template <class T>
Status mean_field_backward(const MeanFieldGradRequest<T>& request, void* workspace);

DENSECRF_END
