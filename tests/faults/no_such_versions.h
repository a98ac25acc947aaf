/* Versions of NVIDIA's libraries that no system has: in front of test_missing_libraries.c and of
 * what it tests. */
#ifndef TESTS_FAULTS_NO_SUCH_VERSIONS_H
#define TESTS_FAULTS_NO_SUCH_VERSIONS_H

#define _GNU_SOURCE
#include <cublasLt.h>
#include <cudnn_graph.h>

#undef CUBLAS_VER_MAJOR
#undef CUDNN_MAJOR
#define CUBLAS_VER_MAJOR 9999
#define CUDNN_MAJOR      9999

#endif
