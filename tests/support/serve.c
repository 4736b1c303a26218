/* Runs a signature of a SavedModel without Python, with the loader that TensorFlow Serving uses.

   serve FOLDER INPUT OUTPUT INDEX ROWS DIMENSION...
   reads float32 numbers of shape (ROWS, DIMENSION...) from the standard input, and prints the float32
   numbers of the output; exits with the code of TensorFlow's status. */
#include <stdio.h>
#include <stdlib.h>
#include "tensorflow/c/c_api.h"

static void check(TF_Status *status) {
  if (TF_GetCode(status) == TF_OK) return;
  fprintf(stderr, "%s\n", TF_Message(status));
  exit(TF_GetCode(status));
}

int main(int argc, char **argv) {
  int rank = argc - 5;
  int64_t shape[8], count = 1;
  TF_Status *status = TF_NewStatus();
  TF_Graph *graph = TF_NewGraph();
  TF_SessionOptions *options = TF_NewSessionOptions();
  const char *tags[] = {"serve"};
  if (argc < 6 || rank > 8) return 100;
  for (int i = 0; i < rank; i++) count *= shape[i] = atoll(argv[5 + i]);
  TF_Session *session =
      TF_LoadSessionFromSavedModel(options, NULL, argv[1], tags, 1, graph, NULL, status);
  check(status);
  TF_Tensor *x = TF_AllocateTensor(TF_FLOAT, shape, rank, count * sizeof(float));
  if (fread(TF_TensorData(x), sizeof(float), count, stdin) != (size_t)count) return 101;
  TF_Output input = {TF_GraphOperationByName(graph, argv[2]), 0};
  TF_Output output = {TF_GraphOperationByName(graph, argv[3]), atoi(argv[4])};
  if (!input.oper || !output.oper) return 102;
  TF_Tensor *y = NULL;
  TF_SessionRun(session, NULL, &input, &x, 1, &output, &y, 1, NULL, 0, NULL, status);
  check(status);
  for (size_t i = 0; i < TF_TensorByteSize(y) / sizeof(float); i++)
    printf("%.9g\n", ((float *)TF_TensorData(y))[i]);
  return 0;
}
